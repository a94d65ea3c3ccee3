//! The configuration reference is generated from the program's tables.

use super::{read, root};

const PAGE: &str = "docs/configuration.md";
const END: &str = "<!-- keys:end -->";

/// With `ROADSTEAD_WRITE` set it writes the page instead.
#[test]
fn the_configuration_reference_is_current() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .arg("reference")
        .output()
        .expect("the program");
    assert!(output.status.success(), "{output:?}");
    let tables = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(tables.contains("| `store.max_size` |"), "{tables}");

    let page = read(PAGE);
    let begin = page
        .find("<!-- keys:begin")
        .expect("where the tables begin");
    let begin = begin + page[begin..].find('\n').expect("a line") + 1;
    let end = page.find(END).expect("where the tables end");
    let current = format!("{}\n{tables}{}", &page[..begin], &page[end..]);
    if std::env::var_os("ROADSTEAD_WRITE").is_some() {
        std::fs::write(root().join(PAGE), current).expect("writable");
    } else {
        let write = "ROADSTEAD_WRITE=1 cargo test --test integration documents::reference";
        assert!(page == current, "{PAGE} is out of date; {write} writes it");
    }
}

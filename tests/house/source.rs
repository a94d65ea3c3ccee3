//! Rust source as far as the rules of the house need it: words with their lines, without comments and
//! literals, which of them are test code, and the paths that lead out of a module.

/// A word or a sign.
#[derive(Clone, Debug)]
pub struct Token {
    pub text: String,
    pub line: usize,
    /// Within `#[cfg(test)]`.
    pub test: bool,
}

/// A source file, taken apart.
pub struct Source {
    /// From the root of the crate: `src/store/blobs.rs`.
    pub path: String,
    pub lines: usize,
    pub tokens: Vec<Token>,
}

/// A path that begins with `crate`, `super` or `roadstead`, resolved from the crate's root.
#[derive(Debug, PartialEq, Eq)]
pub struct Use {
    pub line: usize,
    pub path: Vec<String>,
}

impl Source {
    pub fn parse(path: &str, text: &str) -> Self {
        let mut tokens = tokens(text);
        mark_tests(&mut tokens);
        Self {
            path: path.to_owned(),
            lines: text.lines().count(),
            tokens,
        }
    }

    /// The names of `#[cfg(test)] mod name;`: files that are tests as a whole.
    pub fn test_modules(&self) -> Vec<&str> {
        let is =
            |at: usize, text: &str| self.tokens.get(at).is_some_and(|token| token.text == text);
        let starts = (0..self.tokens.len()).filter(|&at| self.tokens[at].test && is(at, "mod"));
        let outside = starts.filter(|&at| is(at + 2, ";"));
        outside.map(|at| &*self.tokens[at + 1].text).collect()
    }

    /// Where these words follow each other.
    pub fn find<'a>(&'a self, words: &'a [&str]) -> impl Iterator<Item = &'a Token> {
        let windows = self.tokens.windows(words.len());
        windows
            .filter(move |window| {
                window
                    .iter()
                    .zip(words)
                    .all(|(token, word)| token.text == *word)
            })
            .map(|window| &window[0])
    }

    /// The module that this file is: `["store", "blobs"]`.
    fn module(&self) -> Vec<String> {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let inner = inner.strip_suffix(".rs").unwrap_or(inner);
        let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
        if matches!(
            module.last().map(String::as_str),
            Some("mod" | "lib" | "main")
        ) {
            module.pop();
        }
        module
    }

    /// Every path out of a module, groups taken apart.
    pub fn uses(&self) -> Vec<Use> {
        let mut module = self.module();
        // How deep in braces each module within the file began.
        let mut inner = Vec::new();
        let mut depth = 0_usize;
        let mut uses = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            let before = at.checked_sub(1).map(|before| &*self.tokens[before].text);
            match token.text.as_str() {
                "{" => {
                    depth += 1;
                    if at > 1 && self.tokens[at - 2].text == "mod" {
                        module.push(self.tokens[at - 1].text.clone());
                        inner.push(depth);
                    }
                }
                "}" => {
                    if inner.last() == Some(&depth) {
                        inner.pop();
                        module.pop();
                    }
                    depth = depth.saturating_sub(1);
                }
                // `pub(crate)` and the middle of a path begin none.
                "crate" | "super" | "roadstead" if !matches!(before, Some("::" | "(")) => {
                    self.follow(at, &module, &mut uses);
                }
                _ => {}
            }
        }
        uses
    }

    /// Follows the path or group at `at`, relative to `from`; one past its end.
    fn follow(&self, mut at: usize, from: &[String], uses: &mut Vec<Use>) -> usize {
        let mut path = from.to_vec();
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        let line = self.tokens[at].line;
        loop {
            match text(at) {
                "crate" | "roadstead" => path.clear(),
                "super" => drop(path.pop()),
                "self" => {}
                "{" => {
                    at += 1;
                    while !matches!(text(at), "}" | "") {
                        at = self.follow(at, &path, uses);
                        while !matches!(text(at), "," | "}" | "") {
                            at += 1;
                        }
                        at += usize::from(text(at) == ",");
                    }
                    return at + 1;
                }
                name => path.push(name.to_owned()),
            }
            at += 1;
            if text(at) != "::" || text(at + 1) == "<" {
                uses.push(Use { line, path });
                return at;
            }
            at += 1;
        }
    }
}

/// Splits a text into words and signs, `::` being one sign.
fn tokens(text: &str) -> Vec<Token> {
    let letters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < letters.len() {
        let end = skipped(&letters, at).unwrap_or_else(|| {
            let end = word(&letters, at);
            if !letters[at].is_whitespace() {
                tokens.push(Token {
                    text: letters[at..end].iter().collect(),
                    line,
                    test: false,
                });
            }
            end
        });
        line += letters[at..end]
            .iter()
            .filter(|&&letter| letter == '\n')
            .count();
        at = end;
    }
    tokens
}

/// The end of the word or sign that begins at `at`.
fn word(letters: &[char], at: usize) -> usize {
    let is_word = |letter: &&char| letter.is_alphanumeric() || **letter == '_';
    match letters[at..].iter().take_while(is_word).count() {
        0 if letters[at..].starts_with(&[':', ':']) => at + 2,
        0 => at + 1,
        length => at + length,
    }
}

/// The end of the comment or literal that begins at `at`, if one does.
fn skipped(letters: &[char], at: usize) -> Option<usize> {
    let rest = &letters[at..];
    let end = |mark: &str, from: usize| {
        let mark: Vec<char> = mark.chars().collect();
        let found = letters[from..]
            .windows(mark.len())
            .position(|window| window == mark);
        found.map_or(letters.len(), |found| from + found + mark.len())
    };
    if rest.starts_with(&['/', '/']) {
        return Some(end("\n", at).min(letters.len()));
    }
    if rest.starts_with(&['/', '*']) {
        return Some(end("*/", at + 2));
    }
    let begins_word = at > 0 && (letters[at - 1].is_alphanumeric() || letters[at - 1] == '_');
    let prefix = rest
        .iter()
        .take_while(|letter| matches!(letter, 'b' | 'c' | 'r'))
        .count();
    if !begins_word && rest[..prefix].contains(&'r') {
        let hashes = rest[prefix..]
            .iter()
            .take_while(|letter| **letter == '#')
            .count();
        if rest.get(prefix + hashes) == Some(&'"') {
            let mark = format!("\"{}", "#".repeat(hashes));
            return Some(end(&mark, at + prefix + hashes + 1));
        }
    }
    match rest {
        ['"', ..] => Some(closed(letters, at, '"')),
        // A lifetime has no closing quote.
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => Some(closed(letters, at, '\'')),
        _ => None,
    }
}

/// One past the quote that closes the one at `at`.
fn closed(letters: &[char], at: usize, quote: char) -> usize {
    let mut next = at + 1;
    while next < letters.len() && letters[next] != quote {
        next += if letters[next] == '\\' { 2 } else { 1 };
    }
    next + 1
}

/// Marks what follows `#[cfg(test)]`, to the end of its item.
fn mark_tests(tokens: &mut [Token]) {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut at = 0;
    while at + MARK.len() <= tokens.len() {
        if !tokens[at..]
            .iter()
            .zip(MARK)
            .all(|(token, mark)| token.text == mark)
        {
            at += 1;
            continue;
        }
        let mut depth = 0;
        while at < tokens.len() {
            tokens[at].test = true;
            match tokens[at].text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            let ends = matches!(tokens[at].text.as_str(), "}" | ";") && depth == 0;
            at += 1;
            if ends {
                break;
            }
        }
    }
}

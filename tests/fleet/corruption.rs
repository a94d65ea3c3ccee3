//! A node that sends wrong, short or other bytes costs time only.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use testkit::http::at_once;

use super::*;

/// What a node that misbehaves sends.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    FirstByte,
    LastByte,
    Short,
    OtherLength,
    Status,
    Nothing,
    NotHttp,
}

const ALL: [Wrong; 7] = [
    Wrong::FirstByte,
    Wrong::LastByte,
    Wrong::Short,
    Wrong::OtherLength,
    Wrong::Status,
    Wrong::Nothing,
    Wrong::NotHttp,
];

impl Wrong {
    fn answer(self, layer: &[u8]) -> Vec<u8> {
        let mut body = layer.to_vec();
        let mut length = body.len();
        let mut status = "200 OK";
        match self {
            Self::FirstByte => body[0] ^= 1,
            Self::LastByte => body[length - 1] ^= 1,
            Self::Short => body.truncate(length / 2),
            Self::OtherLength => {
                body.push(0);
                length += 1;
            }
            Self::Status => status = "500 Internal Server Error",
            Self::Nothing => return Vec::new(),
            Self::NotHttp => return b"SSH-2.0-x\r\n\r\n".to_vec(),
        }
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        [head.as_bytes(), &body].concat()
    }
}

/// A node that answers every request with these bytes, and closes the connection.
fn impostor(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let _ = stream.write_all(&answer);
        }
    });
    url
}

#[test]
fn wrong_bytes_of_a_node_are_never_served_complete() {
    // Small ones have no bytes before the tail.
    at_once(2, |n| {
        let size = [SIZE, 50_000][n];
        for wrong in ALL {
            gets_wrong_bytes(size, wrong);
        }
    });
}

fn gets_wrong_bytes(size: usize, wrong: Wrong) {
    let scene = Scene::new(size);
    let node = scene.node();
    let url = impostor(wrong.answer(&scene.layer));
    scene.lease_to("impostor", &url);
    let mut raw = Raw::connect(&node.url(), None);
    raw.request("GET", &scene.path, &[]);
    let reply = raw.reply("GET");
    assert_eq!(reply.status(), 200, "{wrong:?}");
    let right = reply.body == scene.layer;
    assert!(right || !reply.is_complete(), "{wrong:?}: {:?}", reply.end);
    // Whoever received a wrong byte before is cut off, as if the upstream had sent it.
    let sent_wrong = matches!(wrong, Wrong::FirstByte) && size as u64 > TAIL;
    assert!(right || sent_wrong, "{wrong:?}: {:?}", reply.end);
    scene.is_right(&node.ask(&scene.path));
    assert!(scene.fetches() >= 1, "{wrong:?}");
    let blob = testkit::s3::blob_key(&scene.digest);
    until("it took over the lease", || {
        scene
            .s3
            .object(&blob)
            .is_some_and(|blob| blob == scene.layer)
    });
    let corrupt = matches!(wrong, Wrong::FirstByte | Wrong::LastByte);
    assert_eq!(
        node.counted("verify_failures"),
        u64::from(corrupt),
        "{wrong:?}"
    );
    assert!(node.counted("peers_lost") > 0, "{wrong:?}");
}

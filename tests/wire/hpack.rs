//! The part of HPACK (RFC 7541) that a manual client needs: fields are encoded literally, so that any bytes can be
//! sent, and responses are decoded without a dynamic table, which the client's settings forbid.

/// The static table (appendix A). Index 1 is the first.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The symbols of each code length (appendix B), whose code is canonical. Longer codes are those of symbols that occur
/// in no response here.
const HUFFMAN: [(u32, &str); 10] = [
    (5, "012aceiost"),
    (6, " %-./3456789=A_bdfghlmnpru"),
    (7, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, "&*,;XZ"),
    (10, "!\"()?"),
    (11, "'+|"),
    (12, "#>"),
    (13, "\0$@[]~"),
    (14, "^}"),
    (15, "<`{"),
];

/// Fields as literals without indexing.
pub fn encode(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// A length in a prefix of seven bits (§5.1), without the Huffman bit.
fn integer(block: &mut Vec<u8>, value: usize) {
    let byte = |value: usize| u8::try_from(value).expect("below 256");
    if value < 127 {
        return block.push(byte(value));
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    block.push(byte(rest));
}

/// The fields of a block that uses no dynamic table.
pub fn decode(block: &[u8]) -> Vec<(String, String)> {
    let mut reader = Reader(block);
    let mut fields = Vec::new();
    while let Some(&first) = reader.0.first() {
        let known = |index: usize| STATIC[index - 1];
        if first & 0x80 != 0 {
            let (name, value) = known(reader.integer(7));
            fields.push((name.to_owned(), value.to_owned()));
        } else if first & 0xe0 == 0x20 {
            assert_eq!(reader.integer(5), 0, "a dynamic table that was forbidden");
        } else {
            let index = reader.integer(if first & 0x40 != 0 { 6 } else { 4 });
            let name = match index {
                0 => reader.text(),
                index => known(index).0.to_owned(),
            };
            fields.push((name, reader.text()));
        }
    }
    fields
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().expect("a whole header block");
        self.0 = rest;
        *first
    }

    fn integer(&mut self, prefix: u32) -> usize {
        let most = (1 << prefix) - 1;
        let mut value = usize::from(self.byte()) & most;
        if value < most {
            return value;
        }
        for shift in (0..28).step_by(7) {
            let byte = usize::from(self.byte());
            value += (byte & 127) << shift;
            if byte < 128 {
                return value;
            }
        }
        panic!("a length beyond reason");
    }

    fn text(&mut self) -> String {
        let huffman = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7);
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        if huffman {
            unpack(text)
        } else {
            String::from_utf8_lossy(text).into_owned()
        }
    }
}

/// Decodes Huffman-coded text; what is left at the end is padding.
fn unpack(bytes: &[u8]) -> String {
    let bits: Vec<u32> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u32::from(byte >> bit & 1)))
        .collect();
    let mut rest = bits.as_slice();
    let mut text = String::new();
    while let Some((letter, length)) = letter(rest) {
        text.push(letter);
        rest = &rest[length..];
    }
    assert!(rest.len() < 8, "a letter that no answer should contain");
    text
}

/// The first symbol of these bits and its length. A canonical code counts up from one length to the next.
fn letter(bits: &[u32]) -> Option<(char, usize)> {
    let mut first = 0;
    let mut before = 0;
    for (length, letters) in HUFFMAN {
        first <<= length - before;
        before = length;
        let length = length as usize;
        let code = bits
            .get(..length)?
            .iter()
            .fold(0, |code, bit| code << 1 | bit);
        let count = u32::try_from(letters.len()).expect("few letters");
        if code < first + count {
            let index = (code - first) as usize;
            return Some((char::from(letters.as_bytes()[index]), length));
        }
        first += count;
    }
    None
}

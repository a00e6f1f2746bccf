use super::*;

#[test]
fn a_message_with_a_length_is_read_and_the_next_one_too() {
    let mut bytes: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 404 Not Found\r\nX: y\r\n\r\n";
    let first = Message::read(&mut bytes).unwrap().unwrap();
    assert_eq!((first.status(), first.body.as_slice()), (Some(200), b"abc".as_slice()));
    let second = Message::read(&mut bytes).unwrap().unwrap();
    assert_eq!((second.status(), second.headers["x"].as_str()), (Some(404), "y"));
    assert!(Message::read(&mut bytes).unwrap().is_none());
}

#[test]
fn chunks_become_one_body() {
    let mut bytes: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
    assert_eq!(Message::read(&mut bytes).unwrap().unwrap().body, b"abc0123456789");
}

#[test]
fn a_cut_message_is_an_error() {
    for whole in [
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde".as_slice(),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n".as_slice(),
    ] {
        for length in 1..whole.len() {
            assert!(Message::read(&mut &whole[..length]).is_err(), "{length}");
        }
        assert!(Message::read(&mut &whole[..]).is_ok());
    }
}

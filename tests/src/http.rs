//! As much HTTP/1.1 as the rig itself speaks: one message from a blocking stream (RFC 9112).

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

/// Bounds a line of a head, so that a confused peer cannot fill the memory.
const LINE_LIMIT: u64 = 64 << 10;

/// Bounds a body.
const BODY_LIMIT: u64 = 256 << 20;

/// A request or a response.
#[derive(Debug)]
pub(crate) struct Message {
    /// Request line or status line.
    pub(crate) start: String,
    /// Header fields, names in lower case; of several with the same name the last.
    pub(crate) headers: BTreeMap<String, String>,
    /// The body, free of its transfer coding.
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Reads a message; nothing where the stream ends before one.
    pub(crate) fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(start) = line(stream)? else { return Ok(None) };
        let mut headers = BTreeMap::new();
        loop {
            let field = line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if field.is_empty() {
                break;
            }
            if let Some((name, value)) = field.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
            }
        }
        let mut body = Vec::new();
        if headers.get("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            read_chunks(stream, &mut body)?;
        } else if let Some(length) = headers.get("content-length") {
            read_exactly(stream, length.parse().map_err(invalid)?, &mut body)?;
        }
        Ok(Some(Self { start, headers, body }))
    }

    /// The status code of a response.
    pub(crate) fn status(&self) -> Option<u16> {
        self.start.split(' ').nth(1)?.parse().ok()
    }
}

/// A connection to a service of the rig.
pub(crate) type Connection = io::BufReader<Box<dyn Stream>>;

/// Bytes, encrypted or not.
pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// Sends a GET on an open connection and reads the answer.
pub(crate) fn get(stream: &mut Connection, host: &str, target: &str) -> io::Result<Message> {
    send(stream, host, target)?;
    Message::read(stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Sends a GET on an open connection.
pub(crate) fn send(stream: &mut Connection, host: &str, target: &str) -> io::Result<()> {
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: adder-load\r\nAccept: */*\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())
}

/// A connection to a loopback port, encrypted where there is a configuration for that.
pub(crate) fn connect(
    port: u16,
    timeout: Duration,
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<Connection> {
    over(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?, timeout, tls)
}

/// HTTP over a connection that is open already.
pub(crate) fn over(
    stream: TcpStream,
    timeout: Duration,
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let stream: Box<dyn Stream> = match tls {
        Some(tls) => {
            let name = ServerName::try_from("localhost").map_err(invalid)?;
            let client = ClientConnection::new(Arc::clone(tls), name).map_err(invalid)?;
            Box::new(StreamOwned::new(client, stream))
        }
        None => Box::new(stream),
    };
    Ok(io::BufReader::new(stream))
}

fn line(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if stream.take(LINE_LIMIT).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(invalid)
}

fn read_chunks(stream: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let size = line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let length = u64::from_str_radix(size, 16).map_err(invalid)?;
        if length == 0 {
            // The trailer section, up to its empty line.
            while !line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?.is_empty() {}
            return Ok(());
        }
        read_exactly(stream, length, body)?;
        line(stream)?;
    }
}

fn read_exactly(stream: &mut impl BufRead, length: u64, body: &mut Vec<u8>) -> io::Result<()> {
    if body.len() as u64 + length > BODY_LIMIT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let read = stream.take(length).read_to_end(body)? as u64;
    if read == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;

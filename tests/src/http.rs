//! A small HTTP/1.1 client over plain TCP: one request per connection.
//!
//! Sockets belong to the network namespace of the thread that opens them, so a plain blocking client is all it
//! takes to ask from any host of the lab: run it inside [`crate::netns::inside`].

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{Doing, Error, Result};

/// A request.
pub(crate) struct Request<'a> {
    /// As `GET`.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Header lines without line ends, beside Host, Content-Length and Connection.
    pub headers: &'a [String],
    /// Body and its length in bytes.
    pub body: Option<(&'a mut dyn Read, u64)>,
}

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first value of a header; the name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `GET path` from `server`; `timeout` bounds connecting and each read.
pub(crate) fn get(server: SocketAddr, path: &str, timeout: Duration) -> Result<Response> {
    send(server, Request { method: "GET", path, headers: &[], body: None }, timeout)
}

/// Sends one request from the current network namespace; `timeout` bounds connecting and each read and write.
pub(crate) fn send(server: SocketAddr, request: Request<'_>, timeout: Duration) -> Result<Response> {
    let what = format!("{} http://{server}{}", request.method, request.path);
    exchange(server, request, timeout).doing(|| what)
}

fn exchange(server: SocketAddr, request: Request<'_>, timeout: Duration) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    let mut head =
        format!("{} {} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n", request.method, request.path);
    for header in request.headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    match request.body {
        Some((body, length)) => {
            stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes())?;
            std::io::copy(&mut body.take(length), &mut stream)?;
        }
        None if request.method == "GET" || request.method == "HEAD" => {
            stream.write_all(format!("{head}\r\n").as_bytes())?;
        }
        None => stream.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes())?,
    }
    read_response(&mut BufReader::new(stream), request.method == "HEAD")
}

fn bad(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned())
}

fn read_line(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn read_response(reader: &mut impl BufRead, without_body: bool) -> std::io::Result<Response> {
    let status_line = read_line(reader)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| bad("no HTTP status"))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("odd HTTP header"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    if without_body || matches!(status, 100..=199 | 204 | 304) {
        return Ok(response);
    }
    if response.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        read_chunks(reader, &mut response.body)?;
    } else if let Some(length) = response.header("content-length").and_then(|text| text.parse::<u64>().ok()) {
        reader.take(length).read_to_end(&mut response.body)?;
        if response.body.len() as u64 != length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    } else {
        reader.read_to_end(&mut response.body)?;
    }
    Ok(response)
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let line = read_line(reader)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length = u64::from_str_radix(digits, 16).map_err(|_| bad("odd HTTP chunk length"))?;
        if length == 0 {
            while !read_line(reader)?.is_empty() {}
            return Ok(());
        }
        let before = body.len() as u64;
        reader.take(length).read_to_end(body)?;
        if body.len() as u64 - before != length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        read_line(reader)?;
    }
}

/// The answer if its status is one of `good`, else an error that shows what was said instead.
pub(crate) fn expect(response: Response, good: &[u16], what: &str) -> Result<Response> {
    if good.contains(&response.status) {
        return Ok(response);
    }
    let text: String = response.text().chars().take(600).collect();
    Err(Error::Answer(format!("{what} answered {}: {}", response.status, text.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::io::Result<Response> {
        read_response(&mut text.as_bytes(), false)
    }

    #[test]
    fn bodies_end_by_length_by_chunks_or_with_the_connection() {
        for (text, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", "abc"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
                "abc",
            ),
            ("HTTP/1.0 200 OK\r\n\r\nabc", "abc"),
            ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ] {
            assert_eq!(parse(text).unwrap().text(), body, "{text}");
        }
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        for text in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "nonsense\r\n\r\n"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_request_reaches_a_server_and_its_answer_comes_back() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut lines = Vec::new();
            loop {
                let line = read_line(&mut reader).unwrap();
                if line.is_empty() {
                    break;
                }
                lines.push(line);
            }
            let mut body = [0; 2];
            reader.read_exact(&mut body).unwrap();
            stream.write_all(b"HTTP/1.1 201 Created\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n").unwrap();
            (lines, body)
        });
        let mut body: &[u8] = b"hi";
        let request =
            Request { method: "PUT", path: "/p?q=1", headers: &["A: b".into()], body: Some((&mut body, 2)) };
        let response = send(server, request, Duration::from_secs(5)).unwrap();
        assert_eq!((response.status, response.header("location")), (201, Some("/x")));
        let (lines, body) = asked.join().unwrap();
        assert_eq!(lines[0], "PUT /p?q=1 HTTP/1.1");
        assert!(lines.contains(&"A: b".to_owned()));
        assert_eq!(&body, b"hi");
    }
}

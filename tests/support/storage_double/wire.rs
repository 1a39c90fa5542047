//! HTTP/1.1, as much as a client of Blob Storage and Azurite speak of it.

use std::io;

use tokio::io::BufReader;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::request::Request;

/// The first line and the headers of a message.
pub(super) struct Head {
    pub(super) first: String,
    /// With names in lower case.
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    pub(super) fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    pub(super) fn content_length(&self) -> u64 {
        self.get("content-length").and_then(|length| length.parse().ok()).unwrap_or_default()
    }

    fn is_chunked(&self) -> bool {
        self.get("transfer-encoding").is_some_and(|encoding| encoding.contains("chunked"))
    }
}

/// What is answered.
pub(super) struct Answer {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    /// No more than so many bytes of the body are sent.
    pub(super) cut: Option<usize>,
    /// It says that the connection ends.
    pub(super) is_last: bool,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.head.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// As it goes to the client.
    pub(super) fn bytes(&self, request: &Request) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.head.first);
        for (key, value) in &self.head.headers {
            let is_ours = match key.as_str() {
                "connection" | "keep-alive" | "transfer-encoding" => true,
                // To HEAD it says how long the body would be.
                "content-length" => !request.is_head(),
                _ => false,
            };
            if !is_ours {
                text.push_str(&format!("{key}: {value}\r\n"));
            }
        }
        if !request.is_head() && !matches!(self.status(), 204 | 304) {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        if self.is_last {
            text.push_str("connection: close\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        if !request.is_head() {
            bytes.extend_from_slice(&self.body[..self.cut.unwrap_or(self.body.len())]);
        }
        bytes
    }
}

/// `None` where the connection ends before a message.
pub(super) async fn read_head(
    reader: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<Head>> {
    let mut first = String::new();
    if reader.read_line(&mut first).await? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        let Some((key, value)) = line.trim_end().split_once(':') else { break };
        headers.push((key.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Some(Head { first: first.trim_end().to_owned(), headers }))
}

/// Reads a body of a known length, or one in chunks.
pub(super) async fn read_body(
    reader: &mut (impl AsyncBufRead + Unpin),
    head: &Head,
    body: &mut Vec<u8>,
) -> io::Result<()> {
    if !head.is_chunked() {
        return read_exactly(reader, head.content_length(), body).await;
    }
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).await?;
        let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        read_exactly(reader, size, body).await?;
        reader.read_line(&mut String::new()).await?;
        if size == 0 {
            return Ok(());
        }
    }
}

pub(super) async fn read_exactly(
    reader: &mut (impl AsyncBufRead + Unpin),
    bytes: u64,
    body: &mut Vec<u8>,
) -> io::Result<()> {
    match reader.take(bytes).read_to_end(body).await? as u64 {
        read if read == bytes => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Asks the service behind, over a connection of its own.
pub(super) async fn forward(upstream: &str, request: &Request) -> io::Result<Answer> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let mut upstream = BufReader::new(stream);
    let mut text = format!("{}\r\n", request.head.first);
    for (key, value) in &request.head.headers {
        if !["connection", "transfer-encoding", "content-length"].contains(&key.as_str()) {
            text.push_str(&format!("{key}: {value}\r\n"));
        }
    }
    let length = request.body.len();
    text.push_str(&format!("content-length: {length}\r\nconnection: close\r\n\r\n"));
    upstream.get_mut().write_all(text.as_bytes()).await?;
    upstream.get_mut().write_all(&request.body).await?;
    let head = read_head(&mut upstream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut answer = Answer { head, body: Vec::new(), cut: None, is_last: false };
    if !request.is_head() && !matches!(answer.status(), 204 | 304) {
        read_body(&mut upstream, &answer.head, &mut answer.body).await?;
    }
    Ok(answer)
}

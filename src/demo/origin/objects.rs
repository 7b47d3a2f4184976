//! The objects of the demo's bucket: s3s-fs stores them as files, under names that it can have. It makes
//! file names of keys and fails with long ones, `a//b`, `..` and `dir/`; here any key that S3 takes is
//! possible.
//!
//! Invariant: [`Objects::put`] replaces an object in one step as far as readers are concerned.
//!
//! It must not know HTTP, signatures or who may ask.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Method};
use openssl::sha::sha256;
use s3s::dto::{HeadObjectInput, HeadObjectOutput, Object, PutObjectInput, StreamingBlob};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Result};
use s3s_fs::FileSystem;
use tokio::sync::RwLock;

use super::listing::{Keys, Page};

/// The objects of one bucket.
pub(super) struct Objects {
    pub(super) files: FileSystem,
    bucket: String,
    // s3s-fs stores an object as several files. Locked for writing while they are written, for reading
    // while they are opened, so that no reader sees half of an overwrite.
    pub(super) overwrite: RwLock<()>,
    pub(super) keys: Keys,
    pub(super) sent: Arc<AtomicU64>,
}

impl Objects {
    /// An empty bucket in `directory`.
    pub(super) fn new(directory: &Path, bucket: &str) -> io::Result<Self> {
        std::fs::create_dir(directory.join(bucket))?;
        let files =
            FileSystem::new(directory).map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok(Self {
            files,
            bucket: bucket.to_owned(),
            overwrite: RwLock::new(()),
            keys: Keys::default(),
            sent: Arc::default(),
        })
    }

    /// Object bytes handed out so far.
    pub(super) fn bytes_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stores an object; returns its ETag, quotes included.
    pub(super) async fn put(
        &self,
        key: &str,
        body: Bytes,
        content_type: &str,
    ) -> io::Result<String> {
        let input = PutObjectInput {
            bucket: self.bucket.clone(),
            key: file_name(key),
            content_length: i64::try_from(body.len()).ok(),
            content_type: Some(content_type.to_owned()),
            body: Some(StreamingBlob::from(Body::from(body))),
            ..Default::default()
        };
        let _alone = self.overwrite.write().await;
        let stored =
            self.files.put_object(request(Method::PUT, input)).await.map_err(io::Error::other)?;
        self.keys.add(key);
        let etag = stored.output.e_tag.ok_or_else(|| io::Error::other("stored without an ETag"))?;
        Ok(format!("\"{}\"", etag.value()))
    }

    /// Refuses any bucket but this one.
    pub(super) fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.bucket {
            return Ok(());
        }
        let reason = "The specified bucket does not exist";
        Err(S3Error::with_message(S3ErrorCode::NoSuchBucket, reason))
    }

    /// The objects of a page of a listing. One that was deleted meanwhile is left out.
    pub(super) async fn describe(&self, page: &Page) -> Vec<Object> {
        let mut objects = Vec::with_capacity(page.keys.len());
        for key in &page.keys {
            let Ok(known) = self.look_up(&self.bucket, key).await else { continue };
            objects.push(Object {
                key: Some(key.clone()),
                e_tag: known.e_tag,
                last_modified: known.last_modified,
                size: known.content_length,
                ..Default::default()
            });
        }
        objects
    }

    /// An object's metadata.
    pub(super) async fn look_up(&self, bucket: &str, key: &str) -> S3Result<HeadObjectOutput> {
        self.check_bucket(bucket)?;
        let input = HeadObjectInput {
            bucket: bucket.to_owned(),
            key: file_name(key),
            ..Default::default()
        };
        let found =
            self.files.head_object(request(Method::HEAD, input)).await.map_err(|error| {
                if *error.code() == S3ErrorCode::NoSuchKey {
                    S3Error::with_message(
                        S3ErrorCode::NoSuchKey,
                        "The specified key does not exist.",
                    )
                } else {
                    error
                }
            })?;
        Ok(found.output)
    }
}

/// A request to s3s-fs that did not come over HTTP.
fn request<T>(method: Method, input: T) -> S3Request<T> {
    S3Request {
        input,
        method,
        uri: http::Uri::default(),
        headers: HeaderMap::new(),
        extensions: http::Extensions::new(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}

/// The name of the file that stores an object: 64 hexadecimal digits, whatever the key is.
pub(super) fn file_name(key: &str) -> String {
    super::presign::hex(&sha256(key.as_bytes()))
}

//! The S3 operations of the demo's origin: s3s-fs, and what S3 does that s3s-fs does not.
//!
//! That is: conditions (RFC 9110 §13.2.2) as 304 and 412, ranges as S3 understands them, HEAD with
//! a range, any key that S3 would take (s3s-fs makes file names of keys and fails long ones,
//! `a//b`, `..` and `dir/`), and so listings of them, response-* overrides on HEAD, and an overwrite
//! that no reader sees half of.
//!
//! Invariant: what a response announces (ETag, length, range) belongs to the very bytes it carries.
//!
//! It must not know sockets, signatures or who may ask.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use openssl::sha::sha256;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CommonPrefix,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, GetBucketLocationInput,
    GetBucketLocationOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, Range, ServerSideEncryption,
    StreamingBlob, UploadPartInput, UploadPartOutput,
};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;
use tokio::sync::RwLock;

use super::body::in_pieces;
use super::conditions::select;
use super::listing::{Keys, Page};
use super::service::Asked;

/// What S3 calls an object whose type nobody stated.
const UNKNOWN_TYPE: &str = "binary/octet-stream";

/// The objects of one bucket.
pub(super) struct Objects {
    files: FileSystem,
    bucket: String,
    // s3s-fs writes an object as several files; held for writing over all of them, for reading over
    // opening them.
    whole: RwLock<()>,
    keys: Keys,
    sent: Arc<AtomicU64>,
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
            whole: RwLock::new(()),
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
        let _alone = self.whole.write().await;
        let stored =
            self.files.put_object(request(Method::PUT, input)).await.map_err(io::Error::other)?;
        self.keys.add(key);
        let etag = stored.output.e_tag.ok_or_else(|| io::Error::other("stored without an ETag"))?;
        Ok(format!("\"{}\"", etag.value()))
    }

    fn own(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.bucket {
            return Ok(());
        }
        let reason = "The specified bucket does not exist";
        Err(S3Error::with_message(S3ErrorCode::NoSuchBucket, reason))
    }

    /// What a page of a listing says of its objects. One that has gone meanwhile is left out.
    async fn describe(&self, page: &Page) -> Vec<Object> {
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

    /// What is known of an object without reading it.
    async fn look_up(&self, bucket: &str, key: &str) -> S3Result<HeadObjectOutput> {
        self.own(bucket)?;
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

/// [`Objects`] as the service owns them.
pub(super) struct Shared(pub(super) Arc<Objects>);

#[async_trait::async_trait]
impl S3 for Shared {
    async fn get_object(
        &self,
        mut req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let _whole = self.0.whole.read().await;
        let known = self.0.look_up(&req.input.bucket, &req.input.key).await?;
        let selected = select(&known, &asked(&req.extensions))?;
        req.input.key = file_name(&req.input.key);
        req.input.range = selected
            .as_ref()
            .map(|range| Range::Int { first: *range.start(), last: Some(*range.end()) });
        let mut answer = self.0.files.get_object(req).await?;
        answer.output.accept_ranges = Some("bytes".into());
        answer.output.server_side_encryption =
            Some(ServerSideEncryption::from_static(ServerSideEncryption::AES256));
        answer.output.content_type.get_or_insert_with(|| UNKNOWN_TYPE.into());
        let announced = answer.output.content_length.and_then(|length| u64::try_from(length).ok());
        answer.output.body = answer
            .output
            .body
            .map(|body| in_pieces(body, announced.unwrap_or(u64::MAX), Arc::clone(&self.0.sent)));
        Ok(answer)
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let _whole = self.0.whole.read().await;
        let mut known = self.0.look_up(&req.input.bucket, &req.input.key).await?;
        let selected = select(&known, &asked(&req.extensions))?;
        let mut headers = overrides(&req.input);
        if let Some(range) = selected {
            let size = known.content_length.unwrap_or(0);
            let text = format!("bytes {}-{}/{size}", range.start(), range.end());
            headers.insert(
                header::CONTENT_RANGE,
                HeaderValue::from_str(&text).map_err(S3Error::internal_error)?,
            );
            known.content_length = i64::try_from(range.end() - range.start() + 1).ok();
        }
        known.accept_ranges = Some("bytes".into());
        known.server_side_encryption =
            Some(ServerSideEncryption::from_static(ServerSideEncryption::AES256));
        known.content_type.get_or_insert_with(|| UNKNOWN_TYPE.into());
        let mut answer = S3Response::new(known);
        answer.headers = headers;
        Ok(answer)
    }

    /// Over HTTP the body may be slow, and readers do not wait for it: for a moment at its end they
    /// can meet the new bytes under the old ETag. [`Objects::put`] has no such moment.
    async fn put_object(
        &self,
        mut req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.0.own(&req.input.bucket)?;
        let key = std::mem::take(&mut req.input.key);
        req.input.key = file_name(&key);
        req.input.content_encoding = stored_encoding(req.input.content_encoding);
        let stored = self.0.files.put_object(req).await?;
        self.0.keys.add(&key);
        Ok(stored)
    }

    async fn create_multipart_upload(
        &self,
        mut req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.0.own(&req.input.bucket)?;
        let key = std::mem::take(&mut req.input.key);
        req.input.key = file_name(&key);
        req.input.content_encoding = stored_encoding(req.input.content_encoding);
        let mut created = self.0.files.create_multipart_upload(req).await?;
        created.output.key = Some(key);
        Ok(created)
    }

    async fn upload_part(
        &self,
        mut req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.0.own(&req.input.bucket)?;
        req.input.key = file_name(&req.input.key);
        self.0.files.upload_part(req).await
    }

    async fn complete_multipart_upload(
        &self,
        mut req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.0.own(&req.input.bucket)?;
        let key = std::mem::take(&mut req.input.key);
        req.input.key = file_name(&key);
        let _alone = self.0.whole.write().await;
        let mut completed = self.0.files.complete_multipart_upload(req).await?;
        if let Some(later) = completed.output.future.take() {
            completed.output = later.await?;
        }
        completed.output.key = Some(key.clone());
        self.0.keys.add(&key);
        Ok(completed)
    }

    async fn abort_multipart_upload(
        &self,
        mut req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.0.own(&req.input.bucket)?;
        req.input.key = file_name(&req.input.key);
        self.0.files.abort_multipart_upload(req).await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.0.own(&req.input.bucket)?;
        let input = req.input;
        let after = input.continuation_token.as_deref().or(input.start_after.as_deref());
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let page = self.0.keys.page(prefix, input.delimiter.as_deref(), after, input.max_keys);
        let url = input.encoding_type.is_some();
        let contents = encoded(self.0.describe(&page).await, url);
        Ok(S3Response::new(ListObjectsV2Output {
            encoding_type: input.encoding_type,
            key_count: i32::try_from(contents.len() + page.prefixes.len()).ok(),
            max_keys: input.max_keys.or(Some(1000)),
            is_truncated: Some(page.next.is_some()),
            contents: Some(contents),
            common_prefixes: Some(common(page.prefixes, url)),
            continuation_token: input.continuation_token,
            next_continuation_token: page.next,
            delimiter: input.delimiter,
            name: Some(input.bucket),
            prefix: input.prefix,
            start_after: input.start_after,
            ..Default::default()
        }))
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        self.0.own(&req.input.bucket)?;
        let input = req.input;
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let (delimiter, after) = (input.delimiter.as_deref(), input.marker.as_deref());
        let page = self.0.keys.page(prefix, delimiter, after, input.max_keys);
        let url = input.encoding_type.is_some();
        let contents = encoded(self.0.describe(&page).await, url);
        Ok(S3Response::new(ListObjectsOutput {
            encoding_type: input.encoding_type,
            max_keys: input.max_keys.or(Some(1000)),
            is_truncated: Some(page.next.is_some()),
            contents: Some(contents),
            common_prefixes: Some(common(page.prefixes, url)),
            marker: input.marker,
            next_marker: page.next,
            delimiter: input.delimiter,
            name: Some(input.bucket),
            prefix: input.prefix,
            ..Default::default()
        }))
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.0.own(&req.input.bucket)?;
        self.0.files.head_bucket(req).await
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.0.own(&req.input.bucket)?;
        self.0.files.get_bucket_location(req).await
    }

    async fn delete_object(
        &self,
        mut req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.own(&req.input.bucket)?;
        let key = std::mem::take(&mut req.input.key);
        req.input.key = file_name(&key);
        let deleted = self.0.files.delete_object(req).await?;
        self.0.keys.remove(&key);
        Ok(deleted)
    }
}

/// What S3 keeps of an upload's Content-Encoding: how its body was cut for signing is no part of it.
fn stored_encoding(sent: Option<String>) -> Option<String> {
    let sent = sent?;
    let codings = sent.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked");
    let kept = codings.collect::<Vec<_>>().join(",");
    (!kept.is_empty()).then_some(kept)
}

fn common(prefixes: Vec<String>, url: bool) -> Vec<CommonPrefix> {
    let prefix = |prefix| CommonPrefix { prefix: Some(spelled(prefix, url)) };
    prefixes.into_iter().map(prefix).collect()
}

fn encoded(mut objects: Vec<Object>, url: bool) -> Vec<Object> {
    for object in &mut objects {
        object.key = object.key.take().map(|key| spelled(key, url));
    }
    objects
}

/// A key as a listing spells it: XML cannot hold every one, so clients ask for percent-encoding.
fn spelled(key: String, url: bool) -> String {
    const KEPT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    if url { utf8_percent_encode(&key, KEPT).to_string() } else { key }
}

/// A request to s3s-fs that came by no wire.
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

/// The file that holds an object: 64 hexadecimal digits, whatever the key is.
fn file_name(key: &str) -> String {
    super::presign::hex(&sha256(key.as_bytes()))
}

fn asked(extensions: &http::Extensions) -> HeaderMap {
    extensions.get::<Asked>().map(|asked| asked.0.clone()).unwrap_or_default()
}

/// The response-* query parameters on HEAD; for GET s3s has them.
fn overrides(input: &HeadObjectInput) -> HeaderMap {
    let wanted: [(HeaderName, &Option<String>); 5] = [
        (header::CACHE_CONTROL, &input.response_cache_control),
        (header::CONTENT_DISPOSITION, &input.response_content_disposition),
        (header::CONTENT_ENCODING, &input.response_content_encoding),
        (header::CONTENT_LANGUAGE, &input.response_content_language),
        (header::CONTENT_TYPE, &input.response_content_type),
    ];
    let value =
        |text: &Option<String>| text.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
    wanted.into_iter().filter_map(|(name, text)| Some((name, value(text)?))).collect()
}

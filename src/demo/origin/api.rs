//! The S3 operations of the demo's origin, on top of s3s-fs: conditions as 304 and 412, ranges and
//! listings as S3 has them, HEAD with a range, response-* overrides on HEAD.
//!
//! Invariant: what a response announces (ETag, length, range) belongs to the very bytes it carries.
//!
//! It must not know sockets, signatures or who may ask.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CommonPrefix,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, GetBucketLocationInput,
    GetBucketLocationOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, Range, ServerSideEncryption,
    UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Error, S3Request, S3Response, S3Result};

use super::body::in_pieces;
use super::conditions::{RequestHeaders, select};
use super::objects::{Objects, file_name};

/// The content type of an object that was stored without one.
const UNKNOWN_TYPE: &str = "binary/octet-stream";

/// The S3 operations on [`Objects`].
pub(super) struct Api(pub(super) Arc<Objects>);

#[async_trait::async_trait]
impl S3 for Api {
    async fn get_object(
        &self,
        mut req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let _whole = self.0.overwrite.read().await;
        let known = self.0.look_up(&req.input.bucket, &req.input.key).await?;
        let selected = select(&known, &RequestHeaders::of(&req.extensions))?;
        req.input.key = file_name(&req.input.key);
        req.input.range = selected
            .as_ref()
            .map(|range| Range::Int { first: *range.start(), last: Some(*range.end()) });
        let mut response = self.0.files.get_object(req).await?;
        response.output.accept_ranges = Some("bytes".into());
        response.output.server_side_encryption =
            Some(ServerSideEncryption::from_static(ServerSideEncryption::AES256));
        response.output.content_type.get_or_insert_with(|| UNKNOWN_TYPE.into());
        let announced =
            response.output.content_length.and_then(|length| u64::try_from(length).ok());
        response.output.body = response
            .output
            .body
            .map(|body| in_pieces(body, announced.unwrap_or(u64::MAX), Arc::clone(&self.0.sent)));
        Ok(response)
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let _whole = self.0.overwrite.read().await;
        let mut known = self.0.look_up(&req.input.bucket, &req.input.key).await?;
        let selected = select(&known, &RequestHeaders::of(&req.extensions))?;
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
        let mut response = S3Response::new(known);
        response.headers = headers;
        Ok(response)
    }

    /// Over HTTP the body may be slow, and readers do not wait for it: for a moment at its end they can
    /// get the new bytes with the old ETag. [`Objects::put`] has no such moment.
    async fn put_object(
        &self,
        mut req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.0.check_bucket(&req.input.bucket)?;
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
        self.0.check_bucket(&req.input.bucket)?;
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
        self.0.check_bucket(&req.input.bucket)?;
        req.input.key = file_name(&req.input.key);
        self.0.files.upload_part(req).await
    }

    async fn complete_multipart_upload(
        &self,
        mut req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.0.check_bucket(&req.input.bucket)?;
        let key = std::mem::take(&mut req.input.key);
        req.input.key = file_name(&key);
        let _alone = self.0.overwrite.write().await;
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
        self.0.check_bucket(&req.input.bucket)?;
        req.input.key = file_name(&req.input.key);
        self.0.files.abort_multipart_upload(req).await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.0.check_bucket(&req.input.bucket)?;
        let input = req.input;
        let after = input.continuation_token.as_deref().or(input.start_after.as_deref());
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let page = self.0.keys.page(prefix, input.delimiter.as_deref(), after, input.max_keys);
        let url = input.encoding_type.is_some();
        let contents = encode_keys(self.0.describe(&page).await, url);
        Ok(S3Response::new(ListObjectsV2Output {
            encoding_type: input.encoding_type,
            key_count: i32::try_from(contents.len() + page.prefixes.len()).ok(),
            max_keys: input.max_keys.or(Some(1000)),
            is_truncated: Some(page.next.is_some()),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes_of(page.prefixes, url)),
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
        self.0.check_bucket(&req.input.bucket)?;
        let input = req.input;
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let (delimiter, after) = (input.delimiter.as_deref(), input.marker.as_deref());
        let page = self.0.keys.page(prefix, delimiter, after, input.max_keys);
        let url = input.encoding_type.is_some();
        let contents = encode_keys(self.0.describe(&page).await, url);
        Ok(S3Response::new(ListObjectsOutput {
            encoding_type: input.encoding_type,
            max_keys: input.max_keys.or(Some(1000)),
            is_truncated: Some(page.next.is_some()),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes_of(page.prefixes, url)),
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
        self.0.check_bucket(&req.input.bucket)?;
        self.0.files.head_bucket(req).await
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.0.check_bucket(&req.input.bucket)?;
        self.0.files.get_bucket_location(req).await
    }

    async fn delete_object(
        &self,
        mut req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.check_bucket(&req.input.bucket)?;
        let key = std::mem::take(&mut req.input.key);
        req.input.key = file_name(&key);
        let deleted = self.0.files.delete_object(req).await?;
        self.0.keys.remove(&key);
        Ok(deleted)
    }
}

/// The part of an upload's Content-Encoding that S3 stores: `aws-chunked` describes how the body was
/// signed, and is left out.
fn stored_encoding(sent: Option<String>) -> Option<String> {
    let sent = sent?;
    let codings = sent.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked");
    let kept = codings.collect::<Vec<_>>().join(",");
    (!kept.is_empty()).then_some(kept)
}

fn common_prefixes_of(prefixes: Vec<String>, url: bool) -> Vec<CommonPrefix> {
    let prefix = |prefix| CommonPrefix { prefix: Some(encode_key(prefix, url)) };
    prefixes.into_iter().map(prefix).collect()
}

fn encode_keys(mut objects: Vec<Object>, url: bool) -> Vec<Object> {
    for object in &mut objects {
        object.key = object.key.take().map(|key| encode_key(key, url));
    }
    objects
}

/// A key as a listing writes it. XML cannot represent every key, so clients ask for percent-encoding.
fn encode_key(key: String, url: bool) -> String {
    const KEPT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    if url { utf8_percent_encode(&key, KEPT).to_string() } else { key }
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

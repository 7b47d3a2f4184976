"""boto3 as people use it: a file or a directory, up or down."""

import os
import sys

import boto3


def main():
    what, local, bucket, key = sys.argv[1:]
    s3 = boto3.client("s3")
    if what == "up":
        s3.upload_file(local, bucket, key)
    elif what == "down":
        s3.download_file(bucket, key, local)
    elif what == "up-all":
        for directory, _, names in os.walk(local):
            for name in names:
                path = os.path.join(directory, name)
                s3.upload_file(path, bucket, key + "/" + os.path.relpath(path, local))
    elif what == "down-all":
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key + "/")
        for found in [found for page in pages for found in page.get("Contents", [])]:
            path = os.path.join(local, os.path.relpath(found["Key"], key))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            s3.download_file(bucket, found["Key"], path)
    else:
        sys.exit("up, down, up-all or down-all")


main()

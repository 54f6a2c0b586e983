"""Signatures are those of the examples that Amazon published for S3, of 24 May 2013."""

from __future__ import annotations

import calendar

import pytest

from archwright.http_client.s3_signature import S3Credentials, SignedRequest, sign_s3_request

CREDENTIALS = S3Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = calendar.timegm((2013, 5, 24, 0, 0, 0))
HOST = "https://examplebucket.s3.amazonaws.com"
PUT_HEADERS = {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"}
EXAMPLES = {
    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41": SignedRequest(
        "GET", f"{HOST}/test.txt", {"Range": "bytes=0-9"}, b""
    ),
    "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd": SignedRequest(
        "PUT", f"{HOST}/test%24file.text", PUT_HEADERS, b"Welcome to Amazon S3."
    ),
    "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543": SignedRequest(
        "GET", f"{HOST}/?lifecycle", {}, b""
    ),
    "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7": SignedRequest(
        "GET", f"{HOST}/?max-keys=2&prefix=J", {}, b""
    ),
}


@pytest.mark.parametrize("signature", EXAMPLES)
def test_a_signature_is_that_of_the_published_example(signature: str) -> None:
    headers = sign_s3_request(EXAMPLES[signature], CREDENTIALS, region="us-east-1", now=NOW)
    assert headers["authorization"].endswith(f",Signature={signature}")


def test_temporary_credentials_are_signed_with_their_token() -> None:
    request = SignedRequest("GET", f"{HOST}/a", {}, b"")
    headers = sign_s3_request(request, CREDENTIALS._replace(session_token="t"), region="eu-west-1", now=NOW)
    assert headers["x-amz-security-token"] == "t"
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token," in headers["authorization"]

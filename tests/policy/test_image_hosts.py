"""Forms of URLs and addresses that lead inside, and those that an operator allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.image_hosts import ImageUrl, is_public_address, match_image_url, parse_image_host

LISTED = ("images.example.org", "*.cdn.example.org", "http://plain.example.org", "odd.example.org:8443")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://images.example.org", ImageUrl("https", "images.example.org", 443, "/")),
        ("HTTPS://Images.Example.ORG/A%20b.png?x=1&y=/?", ImageUrl("https", LISTED[0], 443, "/A%20b.png?x=1&y=/?")),
        ("https://images.example.org:443/@x:y", ImageUrl("https", "images.example.org", 443, "/@x:y")),
        ("https://a.b.cdn.example.org/", ImageUrl("https", "a.b.cdn.example.org", 443, "/")),
        ("http://plain.example.org/x", ImageUrl("http", "plain.example.org", 80, "/x")),
        ("https://odd.example.org:8443/x", ImageUrl("https", "odd.example.org", 8443, "/x")),
    ],
)
def test_the_url_of_a_listed_host_is_read(url: str, found: ImageUrl) -> None:
    assert match_image_url(url, LISTED) == found


HOST = "images.example.org"
ODD_URLS = (
    # Another host, scheme or port.
    *("https://example.org/", "https://ximages.example.org/", f"https://{HOST}.evil.example/", f"http://{HOST}/"),
    *("https://cdn.example.org/", "https://xcdn.example.org/", "https://plain.example.org/", f"https://{HOST}:8443/"),
    *("https://odd.example.org/", f"ftp://{HOST}/", f"file://{HOST}/etc/passwd", "data:image/png;base64,aGk=", ""),
    *(f"https://{HOST}:0/", f"https://{HOST}:65979/", f"https://{HOST}:00443/", f"https://{HOST}:/", f"https:{HOST}/"),
    # Forms that readers of URLs take for different hosts.
    *(f"https://user@{HOST}/", f"https://{HOST}@evil.example/", f"https://{HOST}:x@evil.example/", f"//{HOST}/x"),
    *(f"https://evil.example\\@{HOST}/", f"https://{HOST}\\@evil.example/", f"https://{HOST}\\.evil.example/"),
    *(f"https:\\\\{HOST}/", f"https:///{HOST}/", f"https://{HOST}?@evil.example/", f"https://{HOST}#@evil.example/"),
    *(f" https://{HOST}/", f"https://{HOST}/ ", f"https://{HOST}/\t", f"https://{HOST}/a b", f"ht\ntps://{HOST}/"),
    *(f"https://{HOST}/\r\nHost: evil.example", f"https://{HOST}/\x00", f"https://{HOST}%00.evil.example/"),
    *(f"https://{HOST}./", f"https://.{HOST}/", "https://images..example.org/", "https://%69mages.example.org/"),
    # Letters and digits that become others when a name is prepared.
    *("https://images.example.orɡ/", "https://ｉmages.example.org/", "https://images。example.org/"),
    *("https://imageſ.example.org/", "https://ımages.example.org/", "https://images.eⓧample.org/", f"https://{HOST}/ä"),
    # Addresses as hosts.
    *("https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/"),
    *("https://0x7f.0.0.1/", "https://127.0.0.1./", "https://[::1]/", "https://[::ffff:127.0.0.1]/"),
    "https://①②⑦.0.0.1/",
    *("https://169.254.169.254/", "https://2852039166/", "https://[fe80::1%25eth0]/", "https://[::ffff:a9fe:a9fe]/"),
    f"https://{HOST}/" + "x" * 2_048,
)


@pytest.mark.parametrize("url", ODD_URLS, ids=ascii)
def test_any_other_text_is_no_url_of_a_listed_host(url: str) -> None:
    assert match_image_url(url, LISTED) is None


@given(st.text(), st.text(max_size=3), st.sampled_from(("https://", "http://", "HTTPS://", "//", "")))
def test_what_is_accepted_names_a_listed_host_in_full(text: str, middle: str, scheme: str) -> None:
    for url in (f"{scheme}{HOST}{middle}{text}", f"{scheme}{text}{middle}{HOST}/", f"{scheme}{text}"):
        found = match_image_url(url, LISTED)
        if found is not None:
            assert found.host == HOST and url.lower().startswith(f"https://{HOST}") and url.isascii()
            assert url.endswith(found.target.rstrip("/")) and " " not in found.target


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "*.", "*.org", "org", "localhost", "127.0.0.1", "0x7f.1", "1.2", "[::1]", "a.*.org"),
        *("**.example.org", "ftp://a.example", "https://a.example/", "a.example:0", "a.example:99999"),
        *("A.example", "a.example.", "u@a.example"),
        *("-a.example", "a-.example", "ä.example", f"{'a' * 64}.example", ".".join(["a" * 60] * 5), "https://*"),
    ],
)
def test_what_is_no_entry_of_the_list(text: str) -> None:
    assert parse_image_host(text) is None


INSIDE = (
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "169.254.169.254", "172.31.0.1"),
    *("192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.19.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "::", "::1", "::7f00:1"),
    # These embed an IPv4 address: mapped, translated, NAT64, Teredo, 6to4.
    *("::ffff:8.8.8.8", "::ffff:169.254.169.254", "::ffff:0:8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b:1::a00:1", "2001:0:a9fe:a9fe::", "2002:7f00:1::", "2002:808:808::"),
    *("100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1"),
    *("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "localhost", "127.1", ""),
)
PUBLIC = ("8.8.8.8", "1.1.1.1", "192.0.1.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::5")


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public_address(address)

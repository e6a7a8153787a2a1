"""Options of an OTLPSink are checked where it is made."""

from __future__ import annotations

import pytest

from femtomp import ConfigError, OTLPSink


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compression": "zip"}, "compression must be one of none, gzip, deflate"),
        ({"timeout_s": 0}, "timeout_s must be seconds"),
        ({"timeout_s": float("nan")}, "timeout_s must be seconds"),
        ({"timeout_s": True}, "timeout_s must be seconds"),
        ({"timeout_s": "5"}, "timeout_s must be seconds"),
        ({"timeout_s": 1e9}, "at most 3600"),
        ({"flush_interval_s": -1}, "flush_interval_s must be seconds, 0 to 5"),
        ({"flush_interval_s": 6}, "flush_interval_s must be seconds, 0 to 5"),
        ({"certificate_file": "/no/such.pem"}, "certificate_file: /no/such.pem cannot"),
        ({"certificate_file": 7}, "certificate_file must be a path"),
        ({"certificate_file": "/"}, "cannot be read: Is a directory"),
        ({"client_key_file": __file__}, "go together"),
    ],
    ids=repr,
)
def test_bad_option_is_named(options, words) -> None:
    """The error says which option, what it was, and what is allowed."""
    with pytest.raises(ConfigError, match=words):
        OTLPSink(**options)


def test_good_options_are_kept(tmp_path, monkeypatch) -> None:
    """Paths become absolute, as the supervisor works elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ca.pem").touch()
    sink = OTLPSink(certificate_file="ca.pem", timeout_s=3, compression="gzip")
    assert sink.certificate_file == tmp_path / "ca.pem"
    assert OTLPSink(flush_interval_s=0).flush_interval_s == 0

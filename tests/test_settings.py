"""The configuration file: what it may say, what wins over it, and what its errors say."""

from __future__ import annotations

import pytest

import femtomp
from femtomp.config import ConsoleSink, FileSink, HandlerSink, OTLPSink
from femtomp.errors import ConfigError
from femtomp.settings import Settings, load
from tests.processes.harness import Attached, lines, run_script

WHOLE = """
name = "shop"
level = "DEBUG"
overflow = "drop_new"
linger_s = 5

[resource]
"service.version" = "1.2"
replicas = 3

[redact]
keys = ["pin"]

[[sinks]]
type = "file"
path = "/var/log/app.jsonl"
level = "WARNING"
rate = [100, 500]
filter = { "noisy.lib" = "ERROR" }

[[sinks]]
type = "otlp"
endpoint = "http://collector:4318"
headers = { api-key = "secret" }

[[sinks]]
type = "handler"
factory = "logging.handlers.SysLogHandler"
args = { address = "/dev/log" }
"""


def written(tmp_path, text: str, name: str = "femtomp.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_everything_that_a_file_may_say(tmp_path) -> None:
    """Name, level, options, resource and sinks with their options."""
    said = load(written(tmp_path, WHOLE), {})
    assert (said.name, said.level) == ("shop", "DEBUG")
    assert said.options == {
        "overflow": "drop_new",
        "linger_s": 5,
        "redact": femtomp.Redaction(keys=["pin"]),
    }
    assert said.resource == {"service.version": "1.2", "replicas": 3}
    assert said.sinks == (
        FileSink(
            "/var/log/app.jsonl",
            level="WARNING",
            rate=(100, 500),
            filter={"noisy.lib": "ERROR"},
        ),
        OTLPSink("http://collector:4318", headers={"api-key": "secret"}),
        HandlerSink("logging.handlers.SysLogHandler", args={"address": "/dev/log"}),
    )


def test_sinks_may_be_strings_and_a_mapping_may_have_objects(tmp_path) -> None:
    """The string grammar works everywhere; a program's mapping may hold sinks."""
    said = load(written(tmp_path, 'sinks = ["console:json", "file:/a"]'), {})
    assert said.sinks == (ConsoleSink(format="json"), FileSink("/a"))
    sink = FileSink("/b", name="b")
    assert load({"sinks": [sink]}, {}).sinks == (sink,)


def test_pyproject_has_a_table_of_its_own(tmp_path) -> None:
    """Of a pyproject.toml only [tool.femtomp] is read."""
    text = '[project]\nname = "x"\n[tool.femtomp]\nlevel = "ERROR"\n'
    assert load(written(tmp_path, text, "pyproject.toml"), {}).level == "ERROR"
    with pytest.raises(ConfigError, match=r"no table \[tool.femtomp\]"):
        load(written(tmp_path, "[tool]\n", "pyproject.toml"), {})


def test_nothing_is_looked_for(tmp_path, monkeypatch) -> None:
    """A file in the working directory that nobody named is nobody's business."""
    written(tmp_path, 'level = "DEBUG"')
    monkeypatch.chdir(tmp_path)
    assert load(None, {}) == Settings()
    said = load(None, {"FEMTOMP_CONFIG": "femtomp.toml"})
    assert said.level == "DEBUG"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("level = ", "is no TOML"),
        ("lvl = 3", "unknown key 'lvl'; the keys are: name, level"),
        ('overflow = "drop"', "overflow must be one of drop_old, drop_new, block"),
        ("linger_s = -1", "linger_s must be a number of seconds"),
        ("name = 3", "name must be a non-empty string"),
        ("resource = 3", "resource must be a table"),
        ("[redact]\nkey = ['a']", "redact: unknown key 'key'; it has: keys"),
        ("redact = 3", "redact must be a Redaction or a bool"),
        ('sinks = "console"', "sinks must be a list"),
        ("sinks = []", "sinks must be a list"),
        ("sinks = [3]", r"sinks\[0\]: it must be a table"),
        ('sinks = ["console", "fiel:a"]', r"sinks\[1\]: unknown sink 'fiel:a'"),
        ("[[sinks]]\npath = '/a'", r"sinks\[0\]: type must be one of console, file"),
        ("[[sinks]]\ntype = 'file'", r"sinks\[0\]: FileSink needs 'path'$"),
        ("level = 'LOUD'", "level: unknown level 'LOUD'"),
        ("level = [1]", r"level: unknown level \[1\]"),
        (
            "[femtomp]\nlevel = 'INFO'",
            r"\[femtomp\] does not belong here: .* at the top",
        ),
        (
            "[tool.femtomp]\nlevel = 'INFO'",
            r"\[tool.femtomp\] does not belong here: .* pyproject.toml",
        ),
        (
            "[[sinks]]\ntype = 'file'\npth = '/a'",
            r"sinks\[0\]: unknown key 'pth'; FileSink has: path, format",
        ),
        (
            "[[sinks]]\ntype = 'console'\nstream = 'out'",
            r"sinks\[0\]: ConsoleSink: stream must be one of stderr, stdout",
        ),
        (
            "[[sinks]]\ntype = 'console'\nlevel = 'LOUD'",
            r"sinks\[0\]: unknown level 'LOUD'",
        ),
    ],
)
def test_errors_name_the_file_the_key_and_what_is_allowed(tmp_path, text, words):
    """Whatever is wrong, the message says where, what was found, and what may stand."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=words) as caught:
        load(path, {})
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("config", [3, object(), ["a"]])
def test_what_is_no_configuration_is_said(config) -> None:
    """Neither path nor mapping: the message says what it must be."""
    with pytest.raises(ConfigError, match="path of a TOML file or a mapping"):
        load(config, {})


def test_a_missing_file_is_named_with_its_variable(tmp_path) -> None:
    """Who set FEMTOMP_CONFIG wrongly finds its name in the error."""
    with pytest.raises(
        ConfigError, match=r"FEMTOMP_CONFIG=.*none\.toml: cannot be read"
    ):
        load(None, {"FEMTOMP_CONFIG": str(tmp_path / "none.toml")})


def test_headers_are_in_no_error(tmp_path) -> None:
    """A wrong key beside a secret does not show the secret."""
    text = "[[sinks]]\ntype = 'otlp'\nheaders = { k = 'hunter2' }\nprotocol = 'x'"
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), {})
    assert "hunter2" not in str(caught.value)


def test_a_server_of_a_file(tmp_path) -> None:
    """`config=` alone makes a server: sinks, level, name and resource of the file."""
    out = tmp_path / "out.jsonl"
    text = (
        'name = "shop"\nlevel = "WARNING"\n[resource]\n"service.version" = "7"\n'
        f"[[sinks]]\ntype = 'file'\npath = '{out}'\n"
    )
    with (
        femtomp.start_server(
            config=written(tmp_path, text), spool_parent=tmp_path
        ) as server,
        Attached() as log,
    ):
        assert server.spool.name.startswith("femtomp-shop-")
        log.warning("said")
        assert server.flush()
        server.worker_init()
    (said,) = [r for r in lines(out) if r["body"] == "said"]
    assert said["resource"]["service.version"] == "7"


ORDER = """
import femtomp, sys
config, *arguments = sys.argv[1:]
given = dict(a.split("=") for a in arguments)
with femtomp.start_server(config=config, **given) as server:
    told = server._spool
    said = told.manifest
    print(said["level"], *said["sinks"], said["name"])
"""


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        ([], {}, "10 console shop"),
        ([], {"FEMTOMP_LEVEL": "ERROR"}, "40 console shop"),
        (["level=WARNING"], {"FEMTOMP_LEVEL": "ERROR"}, "30 console shop"),
        ([], {"FEMTOMP_SINKS": "file:/dev/null"}, "10 file shop"),
        (["sinks=file:/dev/full/x"], {"FEMTOMP_SINKS": "console"}, None),
        (["name=cart"], {}, "10 console cart"),
    ],
)
def test_arguments_over_environment_over_file(tmp_path, arguments, environ, expected):
    """Who is nearer to the call wins."""
    path = written(tmp_path, 'name = "shop"\nlevel = "DEBUG"\nsinks = ["console"]')
    where = {"FEMTOMP_SPOOL_PARENT": str(tmp_path), **environ}
    done = run_script(ORDER, path, *arguments, env=where, check=expected is not None)
    if expected is None:
        assert "cannot append to /dev/full/x" in done.stderr
    else:
        assert done.stdout.split("\n")[0] == expected


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"FEMTOMP_LEVEL": "LOUD"}, "^FEMTOMP_LEVEL: unknown level 'LOUD'"),
        ({"FEMTOMP_SINKS": "fiel:a"}, "^FEMTOMP_SINKS='fiel:a': unknown sink"),
        (
            {"FEMTOMP_SINKS": "console,file:"},
            "^FEMTOMP_SINKS='console,file:': FileSink",
        ),
    ],
)
def test_errors_name_the_variable(monkeypatch, environ, words) -> None:
    """What cannot be used in the environment is said with the variable's name."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        femtomp.start_server()


@pytest.mark.parametrize("other", ["a.log", "./a.log", "b.log"])
def test_one_file_in_two_sinks_is_an_error(tmp_path, monkeypatch, other) -> None:
    """Each line would be there twice, whatever the file is called the second time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.log").symlink_to("a.log")
    with pytest.raises(ConfigError, match=r"two sinks write the same file: .*a\.log"):
        femtomp.start_server(["file:a.log", FileSink(other, name="other")])

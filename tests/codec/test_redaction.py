"""Redaction: no secret in any text of a record, and clean records as they were."""

from __future__ import annotations

import json
import re
import time
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from femtomp.codec.redaction import COUNT, Redactor
from femtomp.codec.secret_keys import STANDARD_KEYS, SecretKeys
from femtomp.codec.secret_patterns import PATTERNS
from femtomp.codec.secret_templates import SecretTemplates, leave_out_arguments
from femtomp.codec.secret_text import MARK
from femtomp.record import Record, Resource, Scope
from femtomp.redaction import PATTERN_NAMES
from femtomp.testing import HOSTILE_RECORDS
from tests.records import PLAIN, make

SECRET = "s3cr3t-Value"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQ\nIBADAN\n-----END PRIVATE KEY-----"


def texts(value) -> list[str]:
    """Give every text in a value, at any depth, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bytes):
        return [value.decode("utf-8", "replace")]
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
        inner += [getattr(value, "brief", None)]
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = list(value)
    else:
        return [str(value)]
    return [text for v in inner for text in texts(v)]


def holds(record: Record, secret: str) -> bool:
    return any(secret in text for text in texts(record))


def everything() -> Redactor:
    return Redactor(patterns=PATTERN_NAMES)


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("password", True),
        ("PASSWORD", True),
        ("Password", True),
        ("user_password", True),
        ("userPassword", True),
        ("password2", True),
        ("db.password", True),
        ("token", True),
        ("access_token", True),
        ("accessToken", True),
        ("ACCESS-TOKEN", True),
        ("accesstoken", True),
        ("tokenizer", False),
        ("tokens", False),
        ("api_key", True),
        ("apiKey", True),
        ("X-API-Key", True),
        ("APIKey", True),
        ("apikey", True),
        ("api key", True),
        ("keyboard", False),
        ("monkey", False),
        ("Set-Cookie", True),
        ("cookiecutter", False),
        ("http.request.header.authorization", True),
        ("authorized", False),
        ("author", False),
        ("secretary", False),
        ("aws_secret_access_key", True),
        ("PGPASSWORD", True),
        ("client_secret", True),
        ("sessionid", True),
        ("session", False),
        ("passed", False),
        ("", False),
        ("code.file.path", False),
        ("user_id", False),
        ("x" * 10_000 + "_password", True),
    ],
)
def test_keys_are_compared_by_words(key, secret):
    """A key is secret if a name stands in it as whole words, however it is written."""
    assert SecretKeys(STANDARD_KEYS).has(key) is secret
    record = make(attributes={key: SECRET})
    assert holds(Redactor().record(record), SECRET) is not secret


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        f"password = {SECRET}",
        f"password: {SECRET}",
        f"PASSWORD:{SECRET}",
        f"a=1 password={SECRET} b=2",
        f"a=1,password={SECRET},b=2",
        f"(a=1; password={SECRET})",
        f"https://host/path?user=a&access_token={SECRET}&b=2",
        f'{{"user": "a", "password": "{SECRET}"}}',
        f'{{"user": "a", "password": "x\\" {SECRET}"}}',
        f"{{'user': 'a', 'password': '{SECRET}'}}",
        f"{{'password': b'{SECRET}'}}",
        f'{{"api_key":["a","{SECRET}"],"b":1}}',
        f'{{"secret": {{"inner": "}} {SECRET}"}}, "b": 1}}',
        json.dumps({"body": json.dumps({"password": SECRET})}),
        json.dumps({"a": json.dumps({"b": json.dumps({"password": f'"{SECRET}'})})}),
        f"Authorization: Bearer {SECRET}",
        f"Authorization: Basic {SECRET}",
        f"x-auth-token: Bearer {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f"curl -H 'Authorization: Bearer {SECRET}' https://host",
        f'Cookie: a="b"; sid={SECRET}; c=d',
        f"Set-Cookie: sid=1; x={SECRET}\r\nHost: host",
        f"--api-key={SECRET}",
        f"export PGPASSWORD={SECRET}",
        f"Server=db;User Id=a;Password={SECRET};",
        f"Client(host='h', api_key='{SECRET}', n=1)",
        f"password=>{SECRET}",
        f"if password == '{SECRET}':",
        f'password="{SECRET}',
        f"private_key: -----BEGIN RSA PRIVATE KEY-----\nMII\n{SECRET}\n-----END RSA",
        "-" * 5000 + f"password={SECRET}",
        "x" * 5000 + f".password={SECRET}",
    ],
)
def test_values_behind_keys_are_left_out_of_texts(text):
    """Wherever key and value stand in a text, the value goes and the rest stays."""
    for record in (
        make(body=text),
        make(attributes={"a": text}),
        make(attributes={"a": {"b": [text]}}),
        make(attributes={"exception.message": text, "exception.stacktrace": text}),
        make(attributes={"a": text.encode()}),
        make(body={"a": text}),
        make(scope=Scope("s", attributes={"a": text})),
    ):
        (redacted,) = Redactor().records([record])
        assert not holds(redacted, SECRET)
        assert holds(redacted, MARK)
        assert redacted.attributes[COUNT] >= 1


PAIRS_IN_TEXTS = [
    f"headers [('Authorization', 'Bearer {SECRET}')]",
    f"[(b'authorization', b'Bearer {SECRET}'), (b'x', b'y')]",
    f'{{"headers": [["Authorization", "Bearer {SECRET}"], ["Host", "a"]]}}',
    rf'"[[\"Cookie\", \"sid={SECRET}\"]]"',
    f"(200, [('Set-Cookie', 'sid={SECRET}; HttpOnly')])",
    f'[\n  "Authorization",\n  "{SECRET}"\n]',
    f"cut off [('Authorization', 'Bearer {SECRET}",
    f"[('n', 1), ('token', {SECRET}), ('z', 2)]",
    f"(('token', ('a', '{SECRET}')), 3)",
    f"argv ['mysql', '--password', '{SECRET}', '-u']",
    f'["--api-key", "{SECRET}"]',
    f"running mysql --password {SECRET} -u x",
    f"curl --token '{SECRET} b' -v",
    f"tool --password={SECRET} -v",
    f"{{'name': 'DB_PASSWORD', 'value': '{SECRET}'}}",
    f'{{"key":"DB_PASSWORD","value":"{SECRET}"}}',
    f"EnvVar(name='DB_PASSWORD', value='{SECRET}', value_from=None)",
    f"- name: DB_PASSWORD\n  value: {SECRET}\n- name: X\n  value: y",
    f"<password>{SECRET}</password>",
    f"<ns:Password a='1'>{SECRET}</ns:Password><b>c</b>",
    f"<token><![CDATA[{SECRET}]]></token>",
]


@pytest.mark.parametrize("text", PAIRS_IN_TEXTS)
def test_pairs_options_and_elements_are_left_out_of_texts(text):
    """A value whose name is a pair's, an option's or an element's is left out."""
    redactor = Redactor()
    clean = make(attributes={"a": "b", "c": ["d"]})
    redactor.records([clean])
    for record in (
        clean._replace(body=text),
        clean._replace(attributes={"a": text, "c": ["d"]}),
        clean._replace(attributes={"a": "b", "c": [text]}),
        clean._replace(attributes={"a": "b", "c": [{"e": text.encode()}]}),
        make(attributes={"exception.stacktrace": f"Error\n{text}\n"}),
    ):
        for redact in (redactor, everything()):
            first, redacted, last = redact.records([clean, record, clean])
            assert (first, last) == (clean, clean)
            assert not holds(redacted, SECRET)
            assert holds(redacted, MARK)
            assert redacted.attributes[COUNT] >= 1


PAIRS = [
    [["Authorization", f"Bearer {SECRET}"], ["Cookie", SECRET], ["Host", "a"]],
    [[b"authorization", f"Bearer {SECRET}".encode()], [b"x", b"y"]],
    ["token", SECRET],
    ["password", [SECRET, 1]],
    [{"name": "DB_PASSWORD", "value": SECRET}, {"name": "N", "value": 1}],
    {"key": "api_key", "value": SECRET},
    {"Key": "ApiKey", "Value": {"stringValue": SECRET}},
    {"header": "cookie", "value": SECRET.encode()},
    {"name": b"cookie", "value": SECRET},
    ["mysql", "--password", SECRET, "-u", "ann"],
    ["mysql", "--password", SECRET],
    ["pwsh", "-Password", SECRET],
    [b"mysql", b"--password", SECRET.encode()],
    ["mysql", f"--password={SECRET}"],
    {"argv": [1, ["--token", SECRET]]},
]


@pytest.mark.parametrize("value", PAIRS, ids=range(len(PAIRS)))
def test_pairs_are_left_out_of_fields(value):
    """Lists of pairs, names with values and arguments lose their secrets alone."""
    redactor = Redactor()
    clean = make(attributes={"a": "b", "c": ["d"]})
    redactor.records([clean])
    for record in (
        clean._replace(attributes={"a": "b", "c": value}),
        clean._replace(attributes={"a": "b", "c": [{"deep": value}]}),
        clean._replace(body=value),
    ):
        (redacted,) = redactor.records([record])
        assert not holds(redacted, SECRET)
        assert holds(redacted, MARK)
    found = Redactor().record(make(attributes={"c": value})).attributes["c"]
    assert len(found) == len(value)


def test_fields_that_name_a_value_beside_them():
    """The fields `key` and `value` of one record are a pair as well."""
    redactor = Redactor()
    clean = make(attributes={"key": "colour", "value": "red"})
    for _ in range(2):
        assert redactor.records([clean]) == [clean]
    (redacted,) = redactor.records(
        [clean._replace(attributes={"key": "api_token", "value": SECRET})]
    )
    assert redacted.attributes == {
        "key": "api_token", "value": MARK, COUNT: 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        ["id", "password", "email"],
        [["id", 1], ["user", "ann"]],
        ["wrong password given", "try again"],
        ["--password", "-u", "ann"],
        ["--no-password", "db"],
        ["--verbose", "x"],
        {"name": "DB_HOST", "value": "db"},
        {"name": "DB_PASSWORD", "value": None},
        {"name": "DB_PASSWORD", "default": "x"},
        ["token", None],
        ["token"],
        "columns ['id', 'password', 'email']",
        "usage: login <user> <password> now",
        "usage: login --password -u ann",
        "mysql --no-password db",
        "name: DB_HOST value: db",
        "</password>",
        "it's the 'password', he said",
        "a -- token b",
    ],
    ids=repr,
)
def test_what_is_no_pair_stays(value):
    """Names without a value of their own, and others' values, are left alone."""
    for record in (make(body=value), make(attributes={"c": value})):
        assert Redactor().record(record) is record
        assert Redactor().records([record]) == [record]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[('token', 'a'), ('n', 1)] n=2", "[('token', '[redacted]'), ('n', 1)] n=2"),
        ("run --token a -v", "run --token [redacted] -v"),
        ("<token>a</token> b", "<token>[redacted]</token> b"),
        ("<token>[redacted]</token>", "<token>[redacted]</token>"),
        ("login user=ann password=a,b, ok", "login user=ann password=[redacted], ok"),
        ('{"token": "a", "n": 1}', '{"token": "[redacted]", "n": 1}'),
        ("f(token='a', n=1)", "f(token='[redacted]', n=1)"),
        ("?token=a&n=1#top", "?token=[redacted]&n=1#top"),
        ("Authorization: Bearer a\nHost: b", "Authorization: [redacted]\nHost: b"),
        ("token: Bearer abc def", "token: Bearer [redacted] def"),
        ("password=[redacted]", "password=[redacted]"),
        ("std::token::parse", "std::token::parse"),
        ("password=", "password="),
        ("the password is long", "the password is long"),
        ("at 12:30:01 n=3 a:b", "at 12:30:01 n=3 a:b"),
        ("KeyError: 'token'", "KeyError: 'token'"),
    ],
)
def test_the_rest_of_a_text_stays(text, expected):
    """What is no value of a secret key is left, to the character."""
    assert Redactor().record(make(body=text)).body == expected


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        ("password=%s", (f"with spaces, and {SECRET}",)),
        ("user %s password=%s ok", ("ann", f"a ok {SECRET}")),
        ("token %s", (SECRET,)),
        ("password %r of %s", (SECRET, "ann")),
        ("%(user)s has %(password)s", {"user": "a", "password": f"x {SECRET} y"}),
        ("100%% of %s, api_key '%-20s'", ("a", SECRET)),
        ("secret: %5d%s", (1, SECRET)),
        ("%s%s token %s%s", ("a", "b", "c", SECRET)),
        ("token %s and token %s", (SECRET, f"and token {SECRET}")),
    ],
)
def test_arguments_of_templates_are_left_out(template, arguments):
    """What stood for a placeholder behind a secret's name goes, whatever it holds."""
    record = make(body=template % arguments, attributes={"femtomp.template": template})
    redacted = Redactor().record(record)
    if "%s%s token" not in template:
        assert not holds(redacted, SECRET)
    assert redacted.attributes["femtomp.template"] == template
    assert MARK in redacted.body


def test_a_body_that_does_not_fit_its_template_is_left_out():
    """Where the arguments cannot be told apart, nothing of the body is kept."""
    record = make(
        body=f"password=%s ({SECRET!r}, 2)",
        attributes={"femtomp.template": "password=%s"},
    )
    record = record._replace(body=f"something else {SECRET}")
    assert Redactor().record(record).body == MARK


@given(st.lists(st.text("ab %", max_size=4), min_size=2, max_size=5), st.data())
def test_an_argument_is_left_out_wherever_it_may_be(literals, data):
    """Of a secret argument nothing is left, also where literals occur within it."""
    places = len(literals) - 1
    secret = data.draw(st.integers(0, places - 1))
    arguments = [data.draw(st.text("ab ", max_size=6)) for _ in range(places)]
    arguments[secret] = f"<{data.draw(st.text('ab ', max_size=6))}>"
    names = [f"%({'token' if n == secret else 'a'}{n})s" for n in range(places)]
    template = "".join(
        part
        for pair in zip(
            [v.replace("%", "%%") for v in literals], [*names, ""], strict=False
        )
        for part in pair
    )
    values = dict(zip([n[2:-2] for n in names], arguments, strict=False))
    parsed = SecretTemplates(SecretKeys(STANDARD_KEYS)).look_at(template)
    body, count = leave_out_arguments(parsed, template % values)
    assert "<" not in body
    assert ">" not in body
    assert count == 1


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("jwt", f"got {JWT}.", f"got {MARK}."),
        ("jwt", f"session-{JWT} x", f"session-{MARK} x"),
        ("jwt", "eyJust a word", "eyJust a word"),
        ("bearer_token", "Bearer abc.def-123= x", f"Bearer {MARK} x"),
        ("bearer_token", "bearer of bad news", "bearer of bad news"),
        ("card_number", "pan 4111111111111111.", f"pan {MARK}."),
        ("card_number", "4111-1111-1111-1111 12/30", f"{MARK} 12/30"),
        ("card_number", "3782 822463 10005", MARK),
        ("card_number", "2026 4111 1111 1111 1111 123", f"2026 {MARK} 123"),
        ("card_number", "4111111111111112", "4111111111111112"),
        ("card_number", "1700000000123456789", "1700000000123456789"),
        ("card_number", "41111111111111114111111111111111", None),
        ("url_password", "amqp://u:p!w@h/v", f"amqp://u:{MARK}@h/v"),
        ("url_password", "redis://:pw@h:1", f"redis://:{MARK}@h:1"),
        ("url_password", "postgres://u:p@ss@h", f"postgres://u:{MARK}@h"),
        ("url_password", "http://h:80/users/@me", "http://h:80/users/@me"),
        ("private_key", f"a {PEM} b", f"a {MARK} b"),
        ("private_key", PEM.replace(" PRIV", " RSA PRIV")[:60], MARK),
        ("private_key", PEM.replace("PRIVATE", "PUBLIC"), None),
        ("aws_key", "AKIAIOSFODNN7EXAMPLE", MARK),
        ("aws_key", "XAKIAIOSFODNN7EXAMPLE", None),
    ],
)
def test_patterns(name, text, expected):
    """What looks like a secret goes, wherever it stands; what only begins so stays."""
    expected = text if expected is None else expected
    assert PATTERNS[name](text)[0] == expected
    redactor = Redactor(keys=(), patterns=[name])
    assert redactor.record(make(body=text)).body == expected
    nested = make(attributes={"a": [{"b": text}]})
    assert redactor.record(nested).attributes["a"] == [{"b": expected}]
    assert redactor.records([make(body=text)])[0].body == expected


def test_every_pattern_has_its_name():
    """The names that the options allow are those that there are."""
    assert set(PATTERN_NAMES) == set(PATTERNS)


def test_a_pattern_of_ones_own():
    """A compiled pattern is left out where it matches, keys and logger included."""
    redactor = Redactor(keys=(), patterns=[re.compile(r"EMP-\d+")])
    record = make(body="of EMP-12", attributes={"EMP-7": 1}, logger="a.EMP-3")
    redacted = redactor.record(record)
    assert not holds(redacted, "EMP-")
    assert redacted.attributes[COUNT] == 3


def test_numbers_can_be_secret():
    """A card number or known value goes also where it was logged as a number."""
    redactor = Redactor(patterns=["card_number"], values=["98765"])
    record = make(attributes={"a": 4111111111111111, "b": 98765, "pwd": 1, "c": 7})
    redacted = redactor.records([record])[0].attributes
    assert redacted == {"a": MARK, "b": MARK, "pwd": MARK, "c": 7, COUNT: 3}


PLACES = {
    "body": lambda s: make(body=f"x{s}y"),
    "value": lambda s: make(attributes={"a": s}),
    "key": lambda s: make(attributes={s: 1}),
    "nested": lambda s: make(attributes={"a": [{"b": {s: [s]}}]}),
    "bytes": lambda s: make(attributes={"a": s.encode()}),
    "any body": lambda s: make(body={"a": [s]}),
    "url": lambda s: make(body=f"https://h/?q={quote(s, safe='')}"),
    "json": lambda s: make(body=json.dumps([s])),
    "repr": lambda s: make(body=repr({"a": s})),
    "traceback": lambda s: make(attributes={"exception.stacktrace": f"E: {s}\n"}),
    "frames": lambda s: make(attributes={"exception.frames": [{"locals": {"a": s}}]}),
    "template": lambda s: make(attributes={"femtomp.template": f"{s} %s"}),
    "logger": lambda s: make(logger=f"a.{s}"),
    "event": lambda s: make(event_name=s),
    "scope": lambda s: make(scope=Scope("a", attributes={"b": s})),
    "resource": lambda s: make(resource=Resource({"a": s}, {"b": s})),
}


@pytest.mark.parametrize("place", PLACES)
@given(value=st.text("aB1 &\"'\\é€/%+=:", min_size=4, max_size=12))
@example(value="p4ss&w\"o'rd")
def test_known_values_survive_nowhere(place, value):
    """A known value is in no text of the record, in none of the forms it is written in."""
    redactor = Redactor(values=[value])
    record = PLACES[place](value)
    for redacted in (redactor.record(record), *redactor.records([record, record])):
        assert not holds(redacted, value)
        assert not holds(redacted, quote(value, safe=""))


SAFE_TEXT = st.text("abc xyz.-1")
SAFE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | SAFE_TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcxyz_", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(SAFE, st.dictionaries(st.text("abcxyz_", min_size=1), SAFE, max_size=5))
def test_clean_records_are_the_same_objects(body, attributes):
    """A record that holds no secret comes out as the very object that went in."""
    record = make(body=body, attributes=attributes)
    for redactor in (Redactor(), everything(), Redactor(values=["nowhere"])):
        batch = [record, PLAIN, record]
        for _ in range(2):
            assert all(
                a is b for a, b in zip(redactor.records(batch), batch, strict=False)
            )
        assert redactor.record(record) is record


@given(
    st.dictionaries(st.text("abcxyz_", min_size=1, max_size=5), SAFE, max_size=4),
    st.sampled_from(["password", "Api-Key", "user.token", "clientSecret"]),
    st.lists(st.sampled_from(["list", "dict"]), max_size=6),
    st.one_of(st.just(SECRET), st.integers(10**9, 10**12), st.just({"a": SECRET})),
)
def test_a_secret_field_is_left_out_at_any_depth(others, key, path, secret):
    """Whatever is behind a secret key goes, at any depth, and everything else stays."""
    value = {**others, key: secret}
    for step in path:
        value = [value] if step == "list" else {"d": value}
    record = make(attributes={"a": value})
    (redacted,) = Redactor().records([record])
    inner = redacted.attributes["a"]
    for step in reversed(path):
        inner = inner[0] if step == "list" else inner["d"]
    assert inner == {**others, key: MARK}
    assert redacted.attributes[COUNT] == 1
    assert record == make(attributes={"a": value}), (
        "the record that went in is untouched"
    )


@pytest.mark.parametrize(
    "redactor", [Redactor(), everything(), Redactor(values=["abcd"])]
)
def test_hostile_records_do_not_raise(redactor):
    """Records of any shape come out as records, one for one."""
    deep = "x"
    for _ in range(5000):
        deep = [deep]
    odd = [
        make(body=deep),
        make(attributes={"a": deep}),
        make(attributes={1: 2, None: "password=x", (1,): 3}),
        make(attributes={"a": {"s"}, "b": (1, "token=x"), "femtomp.template": 7}),
        make(attributes={"femtomp.template": "%(" * 3000}),
        make(body="\ud800password=\ud800"),
        make(attributes={"password": None, "token": b"\xff"}),
        make(attributes={"big": 10**5000, "f": float("nan")}),
        make(attributes={b"token": object(), "password": object()}),
        make(event_name=7, logger=None),
    ]
    batch = [*HOSTILE_RECORDS, *odd]
    redacted = redactor.records(batch)
    assert [r.uid for r in redacted] == [r.uid for r in batch]
    assert all(type(r) is Record for r in redacted)


@given(
    st.one_of(
        st.text("password=:{}[]()'\"\\ ,;&%s/@tokenBearer-\n"),
        st.text(),
    )
)
def test_any_text_is_redacted_without_an_error(text):
    """Redaction has an answer for any text, and the same one the second time."""
    redactor = everything()
    once = redactor._redacted(make(body=text, attributes={"femtomp.template": text}))
    twice = redactor._redacted(make(body=once.body))
    assert isinstance(twice.body, str)


def cost_s(redactor: Redactor, text: str) -> float:
    """Give the least CPU time of three that a record with this text takes."""
    record = make(body=text, attributes={"femtomp.template": text, "a": [text]})
    found = []
    for _ in range(3):
        begun = time.process_time()
        redactor._redacted(record)
        found.append(time.process_time() - begun)
    return min(found)


@pytest.mark.parametrize(
    "piece",
    [
        "a", "=", ":", "a=", "= ", " ", "-", ".", "a.", "aB", "A", "é", "\\", "'", '"', "{",
        "password", "password=", "password: ", "password={", "password='", "password=,a",
        "password=\\", ";password=a", "token: [redacted]", "cookie=a\n",
        "authorization:", "authorization: '", "eyJ", "eyJ.", "eyJ-", "-eyJa.", "4", "4 ",
        "4-", "4111 ", "://", "://a:", "://a:b", "a@", "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----", "bearer ", "bearer a ", "AKIA", "%", "%(", "%s",
        "%(token)s", "token %s", "%%", "abcdabc", "('token', ", "('token', 'a') ",
        "('token',(", '("token", \'', '\\"token\\", \\"', "['--token', ", "--token ",
        "--token a ", "--", "<token>", "<token>a</token>", "<token", "</", "<a>", "< a",
        "name: token value: ", "name: token value:(", "name=token", "name = ",
        "name: token ", "value=", "', ",
    ],
)  # fmt: skip
def test_time_is_linear_in_the_text(piece):
    """A text 16 times as long takes about 16 times as long, where 256 were quadratic;
    one of 1 MiB is done.
    """
    redactor = Redactor(patterns=PATTERN_NAMES, values=["abcdabce"])
    short, long = (
        cost_s(redactor, piece * (n // len(piece))) for n in (1 << 13, 1 << 17)
    )
    assert long < 64 * max(short, 1e-4)
    redactor._redacted(make(body=piece * ((1 << 20) // len(piece))))


@pytest.mark.parametrize("redactor", [Redactor(), everything()])
def test_what_was_learnt_of_one_record_hides_nothing_in_the_next(redactor):
    """After a clean record of the same fields, each part of the next is looked at."""
    clean = make(attributes={"a": "b", "c": [1]})
    for _ in range(2):
        assert redactor.records([clean]) == [clean]
    for dirty in (
        clean._replace(resource=Resource({"password": SECRET}, {"token": SECRET})),
        clean._replace(body=f"password={SECRET}"),
        clean._replace(body={"password": SECRET}),
        clean._replace(attributes={"a": f"x:password={SECRET}", "c": [1]}),
        clean._replace(attributes={"a": "b", "c": [{"password": SECRET}]}),
        clean._replace(attributes={"a": "b", "c": [f"password={SECRET}"]}),
        clean._replace(attributes={"a": "b", "password": SECRET}),
        clean._replace(scope=Scope(f"password={SECRET}")),
    ):
        (redacted,) = redactor.records([dirty])
        assert not holds(redacted, SECRET)


def test_workers_do_not_displace_each_other() -> None:
    """Records of several workers in turn are gone through once a worker, not each."""
    redact = Redactor()
    workers = [Resource({"service.name": "shop", "n": n}) for n in range(4)]
    records = [make(resource=workers[n % 4]) for n in range(40)]
    redact.records(records[:8])
    assert redact._suspects(records) == []

"""HTTP requests to a store, where every failure becomes one of the lab's own errors.

urllib3 rather than httpx, since reading a large response takes it a fifth of the time.
"""

from __future__ import annotations

import base64
import http.client
import io
import re
import shlex
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import msgspec
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from lab.errors import LabError, QueryRejected, StoreError, StoreUnreachable
from lab.settings import Settings

MAX_BYTES = 1 << 30  # of one response
MAX_EXCERPT = 600  # characters of a server's message that an error quotes
PIECE_BYTES = 1 << 18
BUFFER_BYTES = 1 << 16
CONNECTIONS = 16
LESS = "request less (a shorter window, a coarser step, a narrower query), or raise LAB_TIMEOUT_S"
LOGIN = (
    'give a login: LAB_STORE_HEADERS=\'{"Authorization": "Bearer ..."}\', LAB_STORE_TOKEN_FILE, '
    "LAB_STORE_TOKEN_COMMAND, or user:password@ in the address (a tenant goes into the headers: "
    '"X-Scope-OrgID")'
)
RIGHTS = (
    "this login is not accepted here: check that it is new (LAB_STORE_HEADERS, "
    "LAB_STORE_TOKEN_FILE, LAB_STORE_TOKEN_COMMAND), and that it may read metrics (OpenShift: "
    "cluster-monitoring-view; Google: roles/monitoring.viewer; Azure: Monitoring Data Reader)"
)
_MESSAGE_KEYS = ("message", "Message", "error", "detail")
KEPT_S = 300.0  # how long the token that a command printed is used
COMMAND_S = 30.0
BASE_PATH = (
    "add the path before /api/v1 to the address: /prometheus (Mimir, a route prefix), "
    "/select/0/prometheus (VictoriaMetrics' vmselect), /workspaces/ID (Amazon), "
    "/v1/projects/ID/location/global/prometheus (Google)"
)
BEHIND = "a part behind this address does not answer: wait, or see its log"
# Status -> what to do about a refusal that says no more.
_BY_STATUS = {
    200: "correct the query",
    400: "correct the query",
    401: LOGIN,
    403: LOGIN,
    404: BASE_PATH,
    405: BASE_PATH,
    422: "correct the query",
    429: LESS,
    502: BEHIND,
    503: BEHIND,
    504: BEHIND,
}
# What a refusal may say, in any letter case -> what to do about it. The first that fits counts.
_WAYS_OUT = (
    (
        "no org id|multiple org",
        f'name the tenant: LAB_STORE_HEADERS=\'{{"X-Scope-OrgID": "..."}}\'; and {LOGIN}',
    ),
    (
        "missing authentication token|perform: aps:|service/operation name|request signature|"
        "credential should be scoped",
        "Amazon's service wants signed requests (SigV4) of an account with aps:QueryMetrics: run "
        f"aws-sigv4-proxy, and give its address with /workspaces/ID; elsewhere {LOGIN}",
    ),
    (
        "configuration is malformed|query parameter must be provided",
        "OpenShift's tenancy port wants a namespace: add ?namespace=NAME to the address, or use "
        "the port for the whole cluster (9091)",
    ),
    ("unsupported path|cannot parse path|missing route", BASE_PATH),
    ("data ?source", "give the data source's uid and a service account's token: " + LOGIN),
    ("prometheus agent", "an agent only forwards samples: give the address of their receiver"),
    ("range specified by start and end", "take a shorter window"),
    ("too many requests|rate limit", f"wait a minute; {LESS}"),
    ("limit|exceed|too (many|large)|maximum (resol|number)|concurrent requests", LESS),
    ("rpc error|vmstorage|store-gateway", BEHIND),
)
_TITLE = re.compile(rb"<title[^>]*>([^<]*)", re.IGNORECASE)
_LOGIN_PAGE = re.compile(
    rb"type=.?password|log[ _-]?in|sign[ _-]?in|oauth|openid|client_id=|saml|\bsso\b", re.IGNORECASE
)
_MARKUP = re.compile(r"(?is)<(style|script)\b.*?</\1>|<[^>]*>")
# Where each kind of server identifies itself without a login: (path, pattern of the response,
# name).
_SELF_DESCRIPTIONS = (
    ("/api/health", rb'"database"\s*:', "Grafana"),
    ("/api/v1/status/buildinfo", rb'"goVersion"\s*:', "Prometheus"),
    ("/api/echo", rb"^echo\s*$", "Tempo"),
    ("/v1/models", rb'"object"\s*:\s*"list"', "a model server"),
    ("/api", rb'^\{"version": "[\w.]+"\}$', "Jupyter"),
    ("/api/services", rb'"data"\s*:.*"errors"\s*:', "Jaeger"),
    ("/api/v2/services", rb"^\s*\[", "Zipkin"),
)


class StoreClient:
    """A client of one store, taken from settings or from a base URL.

    `headers` go with every query, for a server behind a login. Every query may raise
    StoreUnreachable (no response, or another server's) or QueryRejected (a refusal, with the
    server's message).
    """

    NAME: ClassVar[str]

    def __init__(
        self,
        where: Settings | str,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._http = connect(self.NAME, where, timeout_s, headers)
        self.timeout_s = self._http.timeout_s
        self.url = self._http.url  # without a login
        self.metric_prefix = "" if isinstance(where, str) else where.metric_prefix

    def close(self) -> None:
        """Close all connections."""
        self._http.close()


def connect(
    name: str, where: Settings | str, timeout_s: float | None, headers: Mapping[str, str] | None
) -> HttpClient:
    """Return a client of the store `name`, at a base URL or where the settings have it."""
    if isinstance(where, str):
        return HttpClient(name, where, timeout_s or 30.0, headers)
    all_headers = {**where.store_headers, **(headers or {})}
    url = where.endpoint(name.lower())
    token = BearerToken.of(where)
    return HttpClient(name, url, timeout_s or where.timeout_s, all_headers, token)


class BearerToken:
    """A token that is replaced while it is used: of a file, or printed by a command.

    A file is read for every request. What a command printed is kept for KEPT_S seconds. Messages
    never show the token, nor what the command wrote.
    """

    def __init__(self, file: Path | None, command: str) -> None:
        self._file = file
        self._command = command
        self._kept = ""
        self._kept_until = 0.0

    @classmethod
    def of(cls, settings: Settings) -> BearerToken | None:
        """Return the token of the settings, None if they have none."""
        file = settings.store_token_file
        command = settings.store_token_command
        return cls(file, command) if file or command else None

    def header(self) -> dict[str, str]:
        """Return the Authorization header now. Raises StoreError where there is no token."""
        token = self._read_file(self._file) if self._file else self._run_command()
        return {"Authorization": f"Bearer {token}"}

    def forget(self) -> bool:
        """Forget a token that was refused. Returns whether another one may be had."""
        fresh = self._kept_until - KEPT_S + 1.0 > time.monotonic()
        self._kept_until = 0.0
        return bool(self._kept) and not fresh

    def _read_file(self, file: Path) -> str:
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as e:
            raise StoreError(
                "the file with the token for the stores cannot be read",
                got=f"{file}: {type(e).__name__}",
                fix="correct LAB_STORE_TOKEN_FILE, or the rights of that file",
            ) from None
        return _one_word(token, f"LAB_STORE_TOKEN_FILE ({file})")

    def _run_command(self) -> str:
        if time.monotonic() < self._kept_until:
            return self._kept
        words = shlex.split(self._command)
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=COMMAND_S, check=True
            )
        except (OSError, subprocess.SubprocessError, ValueError) as e:
            status = f", exit status {e.returncode}" if hasattr(e, "returncode") else ""
            raise StoreError(
                "the command that prints the token for the stores failed",
                got=f"{words[0]}: {type(e).__name__}{status}",
                fix="run it by hand (LAB_STORE_TOKEN_COMMAND); perhaps it wants a new login",
            ) from None
        self._kept = _one_word(done.stdout.strip(), "LAB_STORE_TOKEN_COMMAND")
        self._kept_until = time.monotonic() + KEPT_S
        return self._kept


def _one_word(token: str, source: str) -> str:
    if not re.fullmatch(r"[!-~]+", token):
        raise StoreError(
            f"{source} does not hold a token",
            got="nothing" if not token else f"{len(token)} characters, not one word of Latin text",
            fix="it must be the token alone, without 'Bearer'",
        )
    return token


@dataclass(frozen=True)
class Reply:
    """A response of any status."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_type(self) -> str:
        """Return the media type, in lower case."""
        return self.headers.get("Content-Type", "").lower()

    def words(self) -> str:
        """Return in one line what it says to people: its message or title, without markup."""
        text = self.content[: 16 * MAX_EXCERPT].decode("utf-8", "replace")
        try:
            content = msgspec.json.decode(self.content)
            error = content.get("error") or content
            texts = [error] if isinstance(error, str) else map(error.get, _MESSAGE_KEYS)
            text = next(filter(None, texts), text)
        except (msgspec.DecodeError, AttributeError, RecursionError, ValueError):
            title = _TITLE.search(self.content)
            text = title[1].decode("utf-8", "replace") if title else _MARKUP.sub(" ", text)
        text = " ".join(str(text).split())[:MAX_EXCERPT]
        return text or self.headers.get("WWW-Authenticate", "")


class HttpClient:
    """Requests to one server, which messages call `name`.

    A user and a password in the URL become an Authorization header, percent-decoded; a query in the
    URL goes with every request. Raises StoreError for an address or a header that cannot be used.
    """

    def __init__(
        self,
        name: str,
        url: str,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        token: BearerToken | None = None,
    ) -> None:
        parts = _split(url)
        self.name = name
        host = parts.netloc.rpartition("@")[2]  # without a login
        self.url = f"{parts.scheme}://{host}{parts.path}".rstrip("/")
        self._params = parse_qsl(parts.query, keep_blank_values=True)
        # Uncompressed: on one machine, compressing a large response takes ten times as long as
        # sending it.
        self._headers = {"Accept-Encoding": "identity", **_login(parts), **(headers or {})}
        _check_headers(self._headers)
        self._token = None if "Authorization" in self._headers else token
        self.timeout_s = timeout_s
        self._pool = urllib3.PoolManager(maxsize=CONNECTIONS, retries=False)
        self._pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def request(
        self,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        accept: str = "",
        query: str = "",
        timeout_s: float | None = None,
        json: Any = None,
    ) -> Reply:
        """Return the response, of any status; redirects are not followed.

        `json` is sent by POST. With a token of a command, a refused one is replaced once. Raises
        StoreUnreachable where the response is not complete within the time limit, or larger than
        MAX_BYTES.
        """
        reply = self._request(path, params, accept, query, timeout_s, json)
        if reply.status in (401, 403) and self._token and self._token.forget():
            return self._request(path, params, accept, query, timeout_s, json)
        return reply

    def _request(
        self,
        path: str,
        params: Mapping[str, Any] | None,
        accept: str,
        query: str,
        timeout_s: float | None,
        json: Any,
    ) -> Reply:
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        encoded = urlencode([*self._params, *(params or {}).items()])
        url = f"{self.url}{path}?{encoded}" if encoded else self.url + path
        headers = self._headers | ({"Accept": accept} if accept else {})
        if self._token:
            headers |= self._token.header()
        try:
            response = self._pool.request(
                "GET" if json is None else "POST",
                url,
                json=json,
                headers=headers,
                redirect=False,
                preload_content=False,
                timeout=urllib3.Timeout(total=limit_s),
            )
            return self._read(response, query)
        except NewConnectionError as e:  # a kind of time-out to urllib3
            raise self._unreachable(e, query) from e
        except (ConnectTimeoutError, ReadTimeoutError, TimeoutError) as e:
            raise StoreUnreachable(
                f"{self.name} at {self.url} did not answer in time",
                query=query,
                got=f"no complete response to {path} within {limit_s:g} s",
                fix=LESS,
            ) from e
        except MemoryError as e:
            raise self._too_large(query, "more than fits into memory") from e
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as e:
            raise self._unreachable(e, query) from e

    def refusal(self, reply: Reply, query: str, message: str = "") -> StoreError:
        """Return the error for a response that is not a success.

        `message` is the server's, where it is known.
        """
        server = None if message else self._other_server(reply)
        if server:
            return self._wrong_server(server, reply, query)
        if 300 <= reply.status < 400:
            target = reply.headers.get("Location", "").partition("?")[0] or "nowhere"
            return StoreUnreachable(
                f"{self.name} at {self.url} redirects to {target}",
                query=query,
                got=f"HTTP {reply.status}",
                fix=f"use {target.partition('/api/')[0]}, or {LOGIN}",
            )
        words = message[:MAX_EXCERPT] or reply.words() or "without a word"
        return QueryRejected(
            f"{self.name} refused the query (HTTP {reply.status}): {words}",
            query=query,
            got=f"{query} sent to {self.url}",
            fix=self._way_out(reply.status, words),
        )

    def not_its_api(self, reply: Reply, query: str, reason: object) -> StoreUnreachable:
        """Return the error for a response that the expected server would never give."""
        server = self._other_server(reply)
        if server:
            return self._wrong_server(server, reply, query)
        start = reply.words()[:200]
        text = str(reason)[:MAX_EXCERPT]
        return StoreUnreachable(
            f"the server at {self.url} is not {self.name}, or its response was cut",
            query=query,
            got=f"{text}; it begins with {start!r}" if reply.content else "an empty answer",
            fix=f"check the address: it must be the base URL of {self.name}, past any login page",
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def _read(self, response: urllib3.BaseHTTPResponse, query: str) -> Reply:
        """Read the content in pieces, so that an endless one ends at MAX_BYTES."""
        pieces: list[bytes] = []
        size = 0
        length = response.length_remaining
        try:
            if length and length <= MAX_BYTES and "Content-Encoding" not in response.headers:
                pieces.append(response.read())
            while piece := response.read1(PIECE_BYTES):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_BYTES:
                    raise self._too_large(query, f"more than {MAX_BYTES:,} bytes")
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return Reply(response.status, b"".join(pieces), response.headers)

    def _too_large(self, query: str, size: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"the response of {self.name} at {self.url} is too large",
            query=query,
            got=size,
            fix=f"{LESS}; and check the address",
        )

    def _unreachable(self, error: Exception, query: str) -> StoreUnreachable:
        fix = "see `lab status`; if it is your own server, check the address"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            fix = "set SSL_CERT_FILE to the file of your authority's certificates"
        return StoreUnreachable(
            f"{self.name} at {self.url} cannot be reached",
            query=query,
            got=f"{type(error).__name__}: {error}",
            fix=fix,
        )

    def _way_out(self, status: int, words: str) -> str:
        for pattern, fix in _WAYS_OUT:
            if re.search(pattern, words, re.IGNORECASE):
                return fix
        if status in (401, 403) and (self._token or "Authorization" in self._headers):
            return RIGHTS
        return _BY_STATUS.get(status, f"see the log of {self.name}")

    def _wrong_server(self, server: str, reply: Reply, query: str) -> StoreUnreachable:
        fix = f"give the base URL of {self.name} itself"
        if server == "Grafana":
            fix += (
                "; Grafana lists it under Connections > Data sources. Or add "
                "/api/datasources/proxy/uid/UID to Grafana's, with a service account's token"
            )
        elif server == "a login page":
            fix = f"{LOGIN}, or give an address behind the login page"
        return StoreUnreachable(
            f"the server at {self.url} is {server}, not {self.name}",
            query=query,
            got=f"HTTP {reply.status}, {reply.content_type or 'without a content type'}",
            fix=fix,
        )

    def _other_server(self, reply: Reply) -> str:
        """Return what else answers at this address; '' where that is not known."""
        body = reply.content[:20_000]
        is_proxy = "/api/datasources/" in self.url
        if not is_proxy and (b"grafanaBootData" in body or b'"messageId"' in body):
            return "Grafana"
        title = _TITLE.search(body)
        if title and b"jupyter" in title[1].lower():
            return "Jupyter"
        target = reply.headers.get("Location", "").encode()
        is_page = body.lstrip()[:1] == b"<"
        if _LOGIN_PAGE.search(target) or (is_page and _LOGIN_PAGE.search(body)):
            return "a login page"
        return self._described_by_itself() if is_page or reply.status in (200, 404, 405) else ""

    def _described_by_itself(self) -> str:
        """Return the server's name for itself; '' for none, or for the expected one."""
        for path, pattern, name in _SELF_DESCRIPTIONS:
            try:
                reply = self.request(path, timeout_s=min(2.0, self.timeout_s))
            except LabError:
                return ""
            if reply.status == 200 and re.search(pattern, reply.content[:20_000]):
                return "" if name == self.name else name
        return ""


class _DeadlineReader(io.RawIOBase):
    """A stream from a socket with a deadline: a socket's time-out restarts with every byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket) -> None:
        self._raw = raw
        self._sock = sock
        timeout_s = sock.gettimeout()
        self._deadline = time.monotonic() + timeout_s if timeout_s is not None else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is not None:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the response is not complete")
            self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response whose headers and content together have one time limit."""

    def __init__(self, sock: socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(self.fp.detach(), sock), BUFFER_BYTES)


class _HttpConnection(HTTPConnection):
    response_class = _Response


class _HttpsConnection(HTTPSConnection):
    response_class = _Response


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


def _split(url: str) -> SplitResult:
    """Return the parts of an address, `http` where it names no scheme.

    Raises StoreError, without any secret.
    """
    text = url.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        usable = bool(parts.hostname) and parts.scheme in ("http", "https")
        parts.port  # noqa: B018  raises ValueError where it is not a number
    except ValueError:
        usable = False
    # An unencoded / or # ends the address early, and the password would be taken for a path.
    if not usable or ("@" in parts.path + parts.query + parts.fragment and "@" not in parts.netloc):
        raise StoreError(
            "the address of a store is not a URL",
            got=re.sub(r"(?<=://).*@", "***@", text, flags=re.DOTALL) if "://" in text else "***",
            fix="write http(s)://host:port/prefix; in user:password@ write @ as %40, / as %2F, "
            ": as %3A, # as %23",
        )
    return parts


def _login(parts: SplitResult) -> dict[str, str]:
    if parts.username is None and parts.password is None:
        return {}
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raise StoreError for a header that HTTP cannot carry; its value may be a secret."""
    for name, value in headers.items():
        if not re.fullmatch(r"[!-9;-~]+", name) or not re.fullmatch(
            r"[\t\x20-\x7e\x80-\xff]*", value
        ):
            raise StoreError(
                "a header for the stores has characters that HTTP does not allow",
                got=f"header {name!r}" if name.isprintable() and len(name) < 50 else "its name",
                fix="correct LAB_STORE_HEADERS: no line breaks, and only Latin letters",
            )

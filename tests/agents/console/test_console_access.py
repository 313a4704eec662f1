"""Each rule of the console's access control, by an attack on it through a real socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agents.console.web import bodies, connections
from agents.console.web.access import attempts
from agents.console.web.access.access import access_of
from agents.console.web.bodies import MAX_BODY_BYTES
from agents.console.web.server import tls_context
from pipeline.config.settings import load_settings
from pipeline.errors import SettingsError
from tests.support.console import browser, console_site, token
from tests.support.delivery_apps import run

ACKNOWLEDGE = {"machine": "te-07", "fault": "idv_4", "why": "seen"}
EVIL = "http://evil.example"


def code(answer: tuple[int, Any]) -> tuple[int, str]:
    """Status and code of a refusal, which says what to do in words."""
    status, content = answer
    assert isinstance(content, dict), content
    assert content["error"]["what"]
    return status, content["error"]["code"]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"# night shift\nkim: {token(1)}\n\nalex:{token(2)}\n")
    return file


# -- on this machine alone ------------------------------------------------------------------------------------


def test_on_its_own_machine_a_page_acts_in_the_name_of_the_user_and_never_in_one_that_it_gives() -> None:
    async def test() -> None:
        async with console_site(user="sam") as site, browser(site) as one:
            await one.begin()
            assert (one.session["user"], one.session["access"], one.session["login"]) == ("sam", "local", False)
            status, answer = await one.post("/api/alarms/acknowledge", ACKNOWLEDGE)
            assert (status, answer["written"]["topic"]) == (202, "control")
            assert code(await one.post("/api/alarms/shelve", {**ACKNOWLEDGE, "by": "the boss"})) == (400, "bad_request")
            assert [(kind, by) for kind, _, by in site.desk.done] == [("acknowledge", "sam")]

    run(test())


def test_what_only_reads_changes_nothing() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            await one.begin()
            for path in ("/api/alarms/acknowledge", "/api/labels", "/api/login", "/api/logout"):
                assert code(await one.get(f"{path}?machine=te-07&why=x")) == (405, "method")
            async with one.client.put(f"{site.origin}/api/labels", headers={"Origin": site.origin}) as answer:
                assert answer.status == 403  # and has no token either
            assert site.desk.done == []

    run(test())


def test_a_post_needs_the_token_of_its_own_session() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one, browser(site) as other:
            await other.begin()
            for given in (None, "", "0" * 64, other.session["csrf"]):
                await one.begin()
                refused = await one.post("/api/alarms/acknowledge", ACKNOWLEDGE, X_Faultline_CSRF=given)
                assert code(refused) == (403, "csrf")
            assert site.desk.done == []
            one.client.cookie_jar.clear()
            assert code(await one.post("/api/alarms/acknowledge", ACKNOWLEDGE)) == (403, "csrf")
            await one.begin()
            assert (await one.post("/api/alarms/acknowledge", ACKNOWLEDGE))[0] == 202

    run(test())


@pytest.mark.parametrize(
    "origin", [EVIL, "null", "http://127.0.0.1:1", "https://127.0.0.1", "http://localhost.evil.example", None]
)
def test_a_page_of_another_site_can_post_nothing(origin: str | None) -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            await one.begin()
            assert code(await one.post("/api/alarms/acknowledge", ACKNOWLEDGE, Origin=origin)) == (403, "origin")
            assert site.desk.done == []

    run(test())


def test_a_page_of_another_site_can_ask_for_nothing() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            await one.begin()
            for headers in ({"Origin": EVIL}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
                for path in ("/api/plant", "/api/session", "/api/updates", "/api/diagnoses/x/why"):
                    assert code(await one.get(path, headers)) == (403, "origin")
            assert site.history.explaining == 0
            # A link in a mail leads to a page, which holds nothing.
            assert (await one.get("/alarms", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}))[0] == 200

    run(test())


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "a@127.0.0.1", "", "[::1"],
)
def test_a_name_that_somebody_makes_lead_here_is_not_answered(host: str) -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            for path in ("/api/plant", "/", "/static/main.js"):
                assert (await one.get(path, {"Host": host}))[0] == 403
            assert (await one.get("/api/plant", {"Host": f"localhost:{site.port}"}))[0] == 200
            assert (await one.get("/api/plant", {"Host": "[::1]:9"}))[0] == 200

    run(test())


def test_a_declared_name_is_answered_and_its_pages_may_post() -> None:
    async def test() -> None:
        async with console_site(names="console.plant.example") as site, browser(site) as one:
            headers = {"Host": "Console.Plant.Example"}
            await one.begin(headers)
            name = "console.plant.example"
            done = await one.post("/api/alarms/acknowledge", ACKNOWLEDGE, Host=name, Origin=f"https://{name}")
            assert done[0] == 202

    run(test())


def test_a_console_for_its_own_machine_does_not_serve_a_proxy() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
                assert code(await one.get("/api/plant", {name: "10.0.0.7"})) == (403, "proxy")

    run(test())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "console.plant.example"])
def test_elsewhere_it_does_not_listen_without_a_login(host: str) -> None:
    with pytest.raises(SettingsError, match=r"would let in everybody.*FAULTLINE_CONSOLE_TOKEN_FILE"):
        access_of(load_settings(console_web_host=host))


# -- tokens ---------------------------------------------------------------------------------------------------


def test_nobody_gets_anything_without_a_token(tokens: Path) -> None:
    async def test() -> None:
        async with console_site(web_host="0.0.0.0", token_file=tokens) as site, browser(site) as one:
            await one.begin()
            assert (one.session["user"], one.session["login"]) == (None, True)
            for path in ("/api/plant", "/api/updates", "/api/alarms", "/api/machines/te-07", "/api/incidents"):
                assert code(await one.get(path)) == (401, "login")
            assert code(await one.post("/api/alarms/acknowledge", ACKNOWLEDGE)) == (401, "login")
            assert code(await one.get("/api/plant", {"X-Forwarded-User": "kim"})) == (401, "login")
            assert (await one.get("/login"))[0] == 200
            assert await one.get("/healthz") == (200, "ok\n")

    run(test())


def test_who_has_a_token_logs_in_acts_by_his_name_and_logs_out(tokens: Path) -> None:
    async def test() -> None:
        async with console_site(token_file=tokens) as site, browser(site) as one:
            before = one.session.get("csrf")
            assert (await one.login(token(1)))[0] == 200
            assert one.session["user"] == "kim" and one.session["csrf"] != before
            assert (await one.get("/api/plant"))[0] == 200
            assert (await one.post("/api/alarms/acknowledge", ACKNOWLEDGE))[0] == 202
            assert site.desk.done[-1][2] == "kim"
            stolen = {cookie.key: cookie.value for cookie in one.client.cookie_jar}
            assert (await one.post("/api/logout", {}))[1]["user"] is None
            assert code(await one.get("/api/plant")) == (401, "login")
            cookies = "; ".join(f"{name}={value}" for name, value in stolen.items())
            async with browser(site) as thief:
                assert code(await thief.get("/api/plant", {"Cookie": cookies})) == (401, "login")

    run(test())


def test_a_cookie_is_kept_from_scripts_and_other_sites_and_cannot_be_made_up(tokens: Path) -> None:
    async def test() -> None:
        async with console_site(token_file=tokens) as site, browser(site) as one:
            await one.login(token(1))
            (cookie,) = one.client.cookie_jar
            assert cookie["httponly"] and cookie["samesite"] == "Strict" and cookie["path"] == "/"
            payload, _, signature = cookie.value.partition(".")
            async with browser(site) as thief:
                for value in (
                    payload,
                    f"{payload}.{'0' * 64}",
                    f"x{payload}.{signature}",
                    "." * 2_000,
                    f"é.{signature}",
                ):
                    refused = await thief.get("/api/plant", {"Cookie": f"{cookie.key}={value}"})
                    assert code(refused) == (401, "login")

    run(test())


def test_a_session_is_over_after_its_time(tokens: Path) -> None:
    async def test() -> None:
        now = [1000.0]
        async with console_site(lambda: now[0], token_file=tokens, session_ms="8h") as site, browser(site) as one:
            assert (await one.login(token(1)))[0] == 200
            now[0] += 8 * 3_600 - 1
            assert (await one.get("/api/plant"))[0] == 200
            now[0] += 1
            assert code(await one.get("/api/plant")) == (401, "login")

    run(test())


def test_wrong_tokens_have_to_wait_after_a_few_and_others_do_not(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MAX_FAILURES", 2)

    async def test() -> None:
        async with (
            console_site(token_file=tokens) as site,
            browser(site) as one,
            browser(site, host="127.0.0.2") as kim,
        ):
            for wrong in ("guess", token(1)[:-1]):
                assert code(await one.login(wrong)) == (401, "wrong_token")
            assert code(await one.login(token(1))) == (429, "too_many_attempts")
            refused = await one.get("/api/plant", {"Authorization": f"Bearer {token(1)}"})
            assert code(refused) == (429, "too_many_attempts")
            assert (await kim.login(token(1)))[0] == 200

    run(test())


def test_a_program_comes_with_its_token_and_needs_no_page(tokens: Path) -> None:
    async def test() -> None:
        async with console_site(token_file=tokens) as site, browser(site) as program:
            right = {"Authorization": f"Bearer {token(2)}"}
            assert (await program.get("/api/plant", right))[0] == 200
            assert code(await program.get("/api/plant", {"Authorization": "Bearer x"})) == (401, "wrong_token")
            bare: dict[str, str | None] = {"Origin": None, "X_Faultline_CSRF": None}
            done = await program.post(
                "/api/alarms/acknowledge", ACKNOWLEDGE, Authorization=right["Authorization"], **bare
            )
            assert done[0] == 202 and site.desk.done[-1][2] == "alex"
            # A page of another site that had the token could still not use it from a browser.
            refused = await program.get("/api/plant", {**right, "Origin": EVIL})
            assert code(refused) == (403, "origin")

    run(test())


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"FAULTLINE_CONSOLE_TOKEN_FILE .*nowhere: No such file"):
        access_of(load_settings(console_token_file=tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"FAULTLINE_CONSOLE_CERTIFICATE .*nowhere.*no such file"):
        tls_context(tmp_path / "nowhere", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no token"),
        ("kim", "line 1: is not of the form name:token"),
        ("kim:short", "line 1: the token of kim has fewer than 16"),
        (f"kim:{token(1)}\nkim:{token(2)}", "line 2: kim or this token is there twice"),
        (f"kim:{token(1)}\nalex:{token(1)}", "line 2: alex or this token is there twice"),
        (f"k\x07m:{token(1)}", "line 1: is not of the form"),
    ],
)
def test_a_file_of_tokens_that_is_wrong_is_refused_and_not_shown(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message) as raised:
        access_of(load_settings(console_token_file=file))
    assert "token-of" not in str(raised.value)


# -- a proxy --------------------------------------------------------------------------------------------------


def proxied(user: str, **more: str) -> dict[str, str]:
    return {"X-Forwarded-User": user, "X-Forwarded-For": "10.1.2.3, 192.0.2.9", **more}


def test_a_trusted_proxy_says_who_it_is_and_nobody_else_can() -> None:
    async def test() -> None:
        rules: Any = {"user_header": "X-Forwarded-User", "trusted_proxies": "127.0.0.1"}
        async with console_site(**rules) as site, browser(site) as proxy, browser(site, host="127.0.0.2") as other:
            assert (await proxy.begin(proxied("kim"))).session["user"] == "kim"
            done = await proxy.post("/api/alarms/acknowledge", ACKNOWLEDGE, **proxied("kim"))
            assert done[0] == 202 and site.desk.done[-1][2] == "kim"
            # The page's token is for one person.
            refused = await proxy.post("/api/alarms/acknowledge", ACKNOWLEDGE, **proxied("alex"))
            assert code(refused) == (403, "csrf")
            assert code(await proxy.get("/api/plant")) == (403, "proxy")
            assert code(await proxy.get("/api/plant", {"X-Forwarded-User": "k" * 101})) == (403, "proxy")
            async with proxy.client.get(
                f"{site.origin}/api/plant", headers=[("X-Forwarded-User", "kim"), ("X-Forwarded-User", "boss")]
            ) as answer:
                assert answer.status == 403
            assert code(await other.get("/api/plant", proxied("kim"))) == (403, "proxy")
            assert code(await other.get("/api/session", proxied("kim"))) == (403, "proxy")

    run(test())


def test_a_proxy_and_tokens_together_let_in_by_both_ways(tokens: Path) -> None:
    async def test() -> None:
        networks = "127.0.0.0/31,10.0.0.0/8"
        rules: Any = {"user_header": "X-Forwarded-User", "trusted_proxies": networks, "token_file": tokens}
        async with console_site(**rules) as site, browser(site) as proxy, browser(site, host="127.0.0.2") as other:
            assert (await proxy.get("/api/plant", proxied("kim")))[0] == 200
            assert code(await other.get("/api/plant", proxied("kim"))) == (401, "login")
            assert (await other.login(token(2)))[0] == 200

    run(test())


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"user_header": "X-User"}, "belong together"),
        ({"trusted_proxies": "10.0.0.1"}, "belong together"),
        ({"user_header": "X-User", "trusted_proxies": "10.0.0.1/8"}, "has host bits set"),
        ({"key": "key.pem"}, "FAULTLINE_CONSOLE_CERTIFICATE"),
    ],
)
def test_half_of_a_rule_is_refused(rules: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        access_of(load_settings(**{f"console_{name}": value for name, value in rules.items()}))


# -- what comes and what goes ---------------------------------------------------------------------------------


def test_every_answer_keeps_what_is_in_it_from_running_and_from_leaving() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            for path in ("/", "/machines/te-07", "/static/main.js", "/api/plant", "/api/nothing", "/static/nothing.js"):
                async with one.client.get(site.origin + path) as answer:
                    policy = answer.headers["Content-Security-Policy"]
                    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
                    assert "unsafe" not in policy
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    assert answer.headers["Referrer-Policy"] == "no-referrer"
                    assert "Access-Control-Allow-Origin" not in answer.headers

    run(test())


@pytest.mark.parametrize(
    "path",
    [
        "/static/../errors.py",
        "/static/%2e%2e/errors.py",
        "/static/..%2ferrors.py",
        "/static/%2e%2e%2f%2e%2e%2fcli/main.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/..\\errors.py",
        "/static/main.js%00.html",
        "/static/",
        "/static/core",
    ],
)
def test_no_path_leads_out_of_the_pages(path: str) -> None:
    async def test() -> None:
        async with console_site() as site:
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = (await reader.read()).decode(errors="replace")
            writer.close()
            assert answer.startswith(("HTTP/1.1 404", "HTTP/1.1 400")), answer
            assert "root:" not in answer and "import" not in answer

    run(test())


def test_bodies_that_are_large_or_no_json_or_of_another_type_are_refused() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            await one.begin()
            path = "/api/alarms/acknowledge"
            assert code(await one.post(path, b" " * (MAX_BODY_BYTES + 1))) == (413, "too_large")
            assert code(await one.post(path, ACKNOWLEDGE, Content_Type="text/plain")) == (415, "content_type")
            assert code(await one.post(path, ACKNOWLEDGE, Content_Type=None)) == (415, "content_type")
            for body in (b"", b"{", b"\xff", b"[" * 60_000, b'{"why": "\xed\xa0\x80"}'):
                assert code(await one.post(path, body)) == (400, "bad_request")
            wrongs: list[Any] = [[], {"why": 1}, {**ACKNOWLEDGE, "machine": ""}, {**ACKNOWLEDGE, "kind": "reset"}]
            for wrong in wrongs:
                assert code(await one.post(path, wrong)) == (400, "bad_request")
            assert code(await one.post("/api/alarms/reset", ACKNOWLEDGE)) == (404, "not_found")
            assert site.desk.done == []

    run(test())


def test_a_body_that_does_not_come_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.1)

    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            await one.begin()
            cookies = "; ".join(f"{cookie.key}={cookie.value}" for cookie in one.client.cookie_jar)
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            head = [
                "POST /api/alarms/acknowledge HTTP/1.1",
                f"Host: localhost:{site.port}",
                f"Origin: http://localhost:{site.port}",
                f"Cookie: {cookies}",
                f"X-Faultline-CSRF: {one.session['csrf']}",
                "Content-Type: application/json",
                "Content-Length: 100",
            ]
            writer.write("\r\n".join([*head, "", '{"machine"']).encode())
            answer = await asyncio.wait_for(reader.readline(), 5)
            assert answer.startswith(b"HTTP/1.1 504"), answer
            writer.close()
            assert site.desk.done == []

    run(test())


@pytest.mark.parametrize(
    "query", ["from=yesterday", "from=-1", "until=99999999999999999", "from=1e9", "from=١", "variables=" + "v," * 61]
)
def test_parameters_that_make_no_sense_are_refused(query: str) -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            assert code(await one.get(f"/api/machines/te-07?{query}")) == (400, "bad_request")

    run(test())


def test_a_console_that_only_shows_lets_nobody_act(tokens: Path) -> None:
    async def test() -> None:
        async with console_site(token_file=tokens, read_only=True) as site, browser(site) as one:
            assert (await one.login(token(1)))[0] == 200
            assert one.session["read_only"] is True
            for path in ("/api/alarms/acknowledge", "/api/labels"):
                assert code(await one.post(path, ACKNOWLEDGE)) == (403, "read_only")
            assert (await one.post("/api/logout", {}))[0] == 200
            assert site.desk.done == []

    run(test())


def test_connections_that_ask_for_nothing_are_closed_and_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)

    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            await one.begin()
            assert (await one.get("/api/plant"))[0] == 200  # this connection stays open
            idle = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(3)]
            assert await asyncio.wait_for(idle[0][0].read(), 5) == b""  # it has made room
            idle[1][1].write(b"GET /api/plant HTTP/1.1\r\nHost: ")
            for reader, _ in idle[1:]:
                assert await asyncio.wait_for(_read_all(reader), 5) == b""
            assert (await one.get("/api/plant"))[0] == 200
            for _, writer in idle:
                writer.close()

    run(test())


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""

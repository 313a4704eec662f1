"""The console's updates: together, at most four times a second, newest first for slow browsers, whole after a gap."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agents.console.web import documents, server, updates
from tests.support.console import browser, console_site, stream, token
from tests.support.delivery_apps import run, until


def test_a_browser_gets_the_whole_picture_and_then_only_what_changes() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            site.book.set("a", 1)
            site.book.set("b", 2)
            async with stream(one) as events:
                name, first = await events.next()
                assert name == "snapshot" and first.keys() == {"plant", "alarms", "status"}
                assert [tile["value"] for tile in first["plant"]["machines"]] == [1, 2]
                assert (await events.next("status"))["wall_ms"] > 0
                site.book.set("b", 3)
                changed = await events.next("machines")
                assert [(tile["id"], tile["value"]) for tile in changed["machines"]] == [("b", 3)]

    run(test())


def test_many_changes_come_together_and_at_most_four_times_a_second() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one, stream(one, "?want=machines") as events:
            await events.next("snapshot")
            begun = asyncio.get_running_loop().time()
            site.book.asked.clear()
            told: list[int] = []
            for value in range(1, 301):
                site.book.set(f"m{value % 3}", value)
                await asyncio.sleep(0.002)
            while not told or told[-1] != 300:
                tiles = (await events.next("machines"))["machines"]
                told.append(max(tile["value"] for tile in tiles))
            seconds = asyncio.get_running_loop().time() - begun
            assert len(told) <= seconds / updates.PERIOD_SECONDS + 2
            assert len(site.book.asked) == len(told)  # none was made that was not sent

    run(test())


def test_what_changed_is_written_once_for_all_browsers(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one, browser(site) as two:
            async with stream(one, "?want=machines") as first, stream(two, "?want=machines") as second:
                await first.next("snapshot")
                await second.next("snapshot")
                assert site.counts.browsers == 2
                site.book.set("a", 1)
                assert await first.next("machines") == await second.next("machines")
                assert site.counts.events["machines"] == 1

            def are_gone() -> bool:
                site.book.set("a", 2)
                return site.counts.browsers == 0

            await until(are_gone)
        assert caplog.records == []  # browsers may go at any time

    run(test())


def test_a_browser_that_comes_back_gets_what_it_has_missed_or_all() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            site.book.set("a", 1)
            async with stream(one, "?want=machines") as events:
                await events.next("snapshot")
                known = events.last_id
            site.book.set("b", 2)
            async with stream(one, "?want=machines", Last_Event_ID=known) as events:
                name, missed = await events.next()
                assert name == "machines" and [tile["id"] for tile in missed["machines"]] == ["b"]
            # Of too long ago, of another life of the console, of the future, and made up.
            site.book.oldest = 2
            for last in (known, "b1-1", "b0-99", "b0-x", "<script>"):
                async with stream(one, "?want=machines", Last_Event_ID=last) as events:
                    assert (await events.next())[0] == "snapshot", last

    run(test())


def test_nothing_waits_for_a_browser_that_does_not_read_and_it_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "PERIOD_SECONDS", 0.005)
    monkeypatch.setattr(updates, "WRITE_SECONDS", 0.3)

    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            site.book.padding = "x" * 300_000
            reading = socket.create_connection(("127.0.0.1", site.port))
            reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            reading.sendall(b"GET /api/updates?want=machines HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with stream(one, "?want=machines") as events:
                for value in range(1, 10_000):
                    site.book.set("a", value)
                    tiles = (await events.next())[1].get("machines")
                    if site.counts.slow:
                        break
                assert site.counts.slow == 1 and site.counts.browsers == 1
                assert tiles and tiles[0]["value"] == value  # others were told all the time
            reading.close()

    run(test())


def test_a_heartbeat_comes_without_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "HEARTBEAT_SECONDS", 0.1)

    async def test() -> None:
        async with console_site() as site, browser(site) as one, stream(one) as events:
            assert [(await events.next())[0] for _ in range(3)] == ["snapshot", "status", "status"]

    run(test())


def test_the_stream_ends_with_the_session(tmp_path: Path) -> None:
    async def test() -> None:
        now = [0.0]
        file = tmp_path / "tokens"
        file.write_text(f"kim:{token()}\n")
        async with console_site(lambda: now[0], token_file=file) as site, browser(site) as one:
            await one.login(token())
            async with stream(one) as events:
                await events.next("status")
                now[0] += 12 * 3_600
                assert await events.next("bye") == {"code": "login"}
                with pytest.raises(ConnectionError):
                    await events.next()

    run(test())


def test_more_browsers_than_there_may_be_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "MAX_BROWSERS", 1)

    async def test() -> None:
        async with console_site() as site, browser(site) as one, stream(one) as events:
            await events.next()
            status, answer = await one.get("/api/updates")
            assert (status, answer["error"]["code"]) == (503, "too_many_browsers")
            status, answer = await one.get("/api/updates?want=secrets")
            assert (status, answer["error"]["code"]) == (400, "bad_request")

    run(test())


def test_the_server_stops_at_once_though_browsers_follow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_STOP_SECONDS", 600)

    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            events = await one.client.get(f"{site.origin}/api/updates")
        events.close()

    run(test())


def test_a_document_that_has_not_changed_is_not_sent_again() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            async with one.client.get(f"{site.origin}/api/plant") as answer:
                etag = answer.headers["ETag"]
            same = {"If-None-Match": etag}
            assert (await one.get("/api/plant", same))[0] == 304
            site.book.set("a", 1)
            site.book.padding = "x" * 10_000
            async with one.client.get(f"{site.origin}/api/plant", headers=same) as answer:
                assert answer.status == 200 and "Content-Encoding" not in answer.headers  # it is the same machine
            async with one.client.get(f"{site.origin}/static/main.js") as answer:
                assert answer.headers["Content-Encoding"] == "gzip"
                same = {"If-None-Match": answer.headers["ETag"]}
            assert (await one.get("/static/main.js", same))[0] == 304

    run(test())


def test_a_machine_may_have_any_name_and_one_that_is_unknown_is_said_so() -> None:
    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            query = "from=1&until=2&variables=xmeas_9,xmeas_1"
            status, machine = await one.get(f"/api/machines/hall%2F1%3Ate-07?{query}")
            assert (status, machine["machine"]) == (200, "hall/1:te-07")
            assert (machine["from_ms"], machine["until_ms"], machine["variables"]) == (1, 2, ["xmeas_9", "xmeas_1"])
            status, answer = await one.get("/api/machines/nobody")
            assert (status, answer["error"]["what"]) == (404, "there is no machine 'nobody'")
            assert answer["error"]["do"]

    run(test())


def test_explanations_wait_for_each_other_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_WAITING", 2)
    monkeypatch.setattr(documents, "WHY_SECONDS", 0.3)

    async def test() -> None:
        async with console_site() as site, browser(site) as one:
            site.history.gate.clear()
            asked = [asyncio.create_task(one.get("/api/diagnoses/te-07%3A1%3Aab%3A0/why")) for _ in range(2)]
            await until(lambda: site.history.explaining == 2)
            status, answer = await one.get("/api/diagnoses/x/why")
            assert (status, answer["error"]["code"]) == (503, "busy")
            assert {(await task)[0] for task in asked} == {504}
            site.history.gate.set()
            assert await one.get("/api/diagnoses/te-07%3A1%3Aab%3A0/why") == (200, {"diagnosis": "te-07:1:ab:0"})

    run(test())


def test_with_a_certificate_it_serves_tls_and_cookies_for_nothing_else(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=c"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *new.split(), *names, *files], check=True, capture_output=True)

    async def test() -> None:
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with console_site(certificate=certificate, key=key) as site, browser(site, tls=trusting) as one:
            await one.begin()
            (cookie,) = one.client.cookie_jar
            assert cookie["secure"] and cookie.key.startswith("__Host-")
            body = {"machine": "te-07", "why": "seen"}
            assert (await one.post("/api/alarms/acknowledge", body))[0] == 202
            status, _ = await one.post("/api/alarms/acknowledge", body, Origin=f"http://127.0.0.1:{site.port}")
            assert status == 403

    run(test())


def test_documents_are_packed_for_who_comes_through_a_proxy() -> None:
    async def test() -> None:
        rules: Any = {"user_header": "X-Forwarded-User", "trusted_proxies": "127.0.0.1"}
        async with console_site(**rules) as site, browser(site) as one:
            site.book.set("a", 1)
            site.book.padding = "x" * 10_000
            headers = {"X-Forwarded-User": "kim", "X-Forwarded-For": "192.0.2.9"}
            async with one.client.get(f"{site.origin}/api/plant", headers=headers) as answer:
                assert answer.headers["Content-Encoding"] == "gzip"
                assert len((await answer.json())["machines"][0]["text"]) == 10_000

    run(test())

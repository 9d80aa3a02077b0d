"""Settings under Chroma's names, and the headers they mean."""

from __future__ import annotations

import copy
import pickle
import ssl
from pathlib import Path

import pytest
import trustme

from chroma_async import AdminClient, AsyncClient, Client, EngineSettings, HttpClient, Settings
from chroma_async.client.options import chosen_limits, chosen_timeout, engine_settings, verification
from chroma_async.client.settings import request_headers
from chroma_async.errors import ServerUnreachableError


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match="unknown setting allow_resett; did you mean allow_reset"):
        Settings(allow_resett=True)
    with pytest.raises(ValueError, match="unknown setting zzz; see"):
        Settings(zzz=1)


def test_settings_of_chromas_inside_are_accepted() -> None:
    settings = Settings(anonymized_telemetry=False, allow_reset=True, is_persistent=True, persist_directory="d")
    assert settings.allow_reset
    assert settings.persist_directory == "d"
    assert settings == Settings(allow_reset=True, is_persistent=True, persist_directory="d")


def test_settings_are_read_as_they_were_given() -> None:
    settings = Settings(anonymized_telemetry=False, allow_reset=True)
    for same in (settings, copy.deepcopy(settings), pickle.loads(pickle.dumps(settings))):
        assert same.anonymized_telemetry is False
        assert same["anonymized_telemetry"] is False
        assert same.require("allow_reset") is True
        assert same.environment is None
    with pytest.raises(ValueError, match="the setting environment is needed"):
        settings.require("environment")
    with pytest.raises(AttributeError, match="no attribute 'allow_resett'"):
        _ = settings.allow_resett


def test_settings_are_changed_as_they_are_given() -> None:
    """Programs for Chroma fill an empty one."""
    settings = Settings()
    settings.persist_directory, settings.anonymized_telemetry = "d", False
    settings.chroma_client_auth_token_transport_header = "X-Chroma-Token"
    assert settings == Settings(persist_directory="d", chroma_auth_token_transport_header="X-Chroma-Token")
    assert settings.anonymized_telemetry is False
    assert settings.chroma_client_auth_token_transport_header == "X-Chroma-Token"
    with pytest.raises(ValueError, match="unknown setting allow_resett; did you mean allow_reset"):
        settings.allow_resett = True
    with pytest.raises(ValueError, match=r"before 0\.4"):
        settings.chroma_db_impl = "duckdb+parquet"


def test_settings_that_would_keep_data_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match=r"before 0\.4; use PersistentClient"):
        Settings(chroma_db_impl="duckdb+parquet", persist_directory="d")
    for implementation in ("rest", "chromadb.api.fastapi.FastAPI", "chromadb.api.async_fastapi.AsyncFastAPI"):
        settings = Settings(chroma_api_impl=implementation)
        for constructor in (Client, AdminClient, AsyncClient):
            with pytest.raises(ValueError, match="settings need chroma_server_host"):
                constructor(settings)
    assert not Settings(chroma_api_impl="chromadb.api.segment.SegmentAPI").means_http


@pytest.mark.parametrize(
    "provider",
    ["token", "chromadb.auth.token_authn.TokenAuthClientProvider", "chromadb.auth.token.TokenAuthClientProvider"],
)
def test_a_token_travels_in_the_chosen_header(provider: str) -> None:
    auth = {"chroma_client_auth_provider": provider, "chroma_client_auth_credentials": "tok"}
    assert request_headers(Settings(**auth), None) == {"Authorization": "Bearer tok"}
    for name in ("X-Chroma-Token", "X_CHROMA_TOKEN", "x-chroma-token"):
        settings = Settings(**auth, chroma_auth_token_transport_header=name)
        assert request_headers(settings, None) == {"X-Chroma-Token": "tok"}
        assert Settings(**auth, chroma_client_auth_token_transport_header=name) == settings
    with pytest.raises(ValueError, match="X-Chroma-Token"):
        request_headers(Settings(**auth, chroma_auth_token_transport_header="Cookie"), None)


@pytest.mark.parametrize(
    "provider",
    ["basic", "chromadb.auth.basic_authn.BasicAuthClientProvider", "chromadb.auth.basic.BasicAuthClientProvider"],
)
def test_user_and_password_travel_as_basic_authentication(provider: str) -> None:
    settings = Settings(chroma_client_auth_provider=provider, chroma_client_auth_credentials="user:pw")
    assert request_headers(settings, {"X-A": "1"}) == {"Authorization": "Basic dXNlcjpwdw==", "X-A": "1"}


def test_authentication_that_could_not_work_is_refused() -> None:
    with pytest.raises(ValueError, match="chroma_client_auth_credentials"):
        request_headers(Settings(chroma_client_auth_provider="token"), None)
    with pytest.raises(ValueError, match="unknown chroma_client_auth_provider"):
        request_headers(Settings(chroma_client_auth_provider="x", chroma_client_auth_credentials="y"), None)


def test_plain_credentials_travel_like_those_of_settings() -> None:
    assert request_headers(Settings(), None, ("us er", "p:w ü")) == {"Authorization": "Basic dXMgZXI6cDp3IMO8"}
    assert request_headers(Settings(), {"X-A": "1"}, None, "tok") == {"Authorization": "Bearer tok", "X-A": "1"}
    settings = Settings(chroma_auth_token_transport_header="X-Chroma-Token")
    assert request_headers(settings, None, None, "tok") == {"X-Chroma-Token": "tok"}


def test_credentials_in_two_places_are_refused_before_a_server_does() -> None:
    settings = Settings(chroma_client_auth_provider="token", chroma_client_auth_credentials="t")
    for arguments in ((Settings(), None, ("a", "b"), "t"), (settings, None, ("a", "b"), None), (settings, None, None, "t")):
        with pytest.raises(ValueError, match="give one of"):
            request_headers(*arguments)
    with pytest.raises(ValueError, match="given twice"):
        request_headers(Settings(), {"authorization": "Bearer x"}, None, "t")


def test_header_that_is_given_twice_is_sent_once() -> None:
    settings = Settings(
        chroma_client_auth_provider="token",
        chroma_client_auth_credentials="old",
        chroma_server_headers={"x-a": "1", "AUTHORIZATION": "Bearer oldest"},
    )
    assert request_headers(settings, {"authorization": "Bearer new"}) == {"x-a": "1", "authorization": "Bearer new"}


@pytest.mark.parametrize("token", ["", "a b", "tökén", "a\nb", "a\x7f"])
def test_tokens_that_no_header_can_carry_are_refused(token: str) -> None:
    with pytest.raises(ValueError, match="Invalid token"):
        request_headers(Settings(), None, None, token)


def test_users_and_passwords_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="colon"):
        request_headers(Settings(), None, ("a:b", "c"))
    with pytest.raises(ValueError, match="user:password"):
        request_headers(Settings(chroma_client_auth_provider="basic", chroma_client_auth_credentials="alone"), None)


def test_timeouts_limits_and_certificates_follow_the_settings() -> None:
    assert (chosen_timeout(None).connect, chosen_timeout(None).read) == (10.0, 60.0)
    assert chosen_timeout(3).read == 3
    limits = chosen_limits(None, Settings(chroma_http_max_connections=7, chroma_http_keepalive_secs=9))
    assert (limits.max_connections, limits.keepalive_expiry) == (7, 9)
    assert verification(Settings()) is True
    assert verification(Settings(chroma_server_ssl_verify=False)) is False


def test_a_path_is_an_authority_to_trust(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    context = verification(Settings(chroma_server_ssl_verify=str(authority)))
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1
    # Not a warning of httpx, which wants no paths any more.
    with pytest.raises(ServerUnreachableError):
        HttpClient("https://localhost:1", settings=Settings(chroma_server_ssl_verify=str(authority)), retries=0).heartbeat()


def test_a_path_without_certificates_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for wrong in (tmp_path / "none.pem", tmp_path / "empty.pem"):
        with pytest.raises(ValueError, match=f"no certificates there.*{wrong.name}"):
            verification(Settings(chroma_server_ssl_verify=str(wrong)))


def test_reset_is_allowed_by_either_settings() -> None:
    assert engine_settings(Settings(allow_reset=True), None).allow_reset
    assert engine_settings(Settings(), EngineSettings(allow_reset=True)).allow_reset
    assert not engine_settings(Settings(), None).allow_reset

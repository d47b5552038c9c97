"""Tokens of a broker on requests of `requests`. Copy it beside the modules that protoc makes: docs/python.md says how."""

import re
import threading
import time
from urllib.parse import quote_plus, unquote, unquote_plus, urlsplit, urlunsplit

import grpc
import requests
from tokenbroker.v1 import token_broker_service_pb2 as pb
from tokenbroker.v1 import token_broker_service_pb2_grpc as rpc


def channel(address, ca_file, cert_file, key_file):
    """A connection by mutual TLS, for the whole process."""
    ca, cert, key = (open(name, "rb").read() for name in (ca_file, cert_file, key_file))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert))


class TokenBrokerAuth(requests.auth.AuthBase):
    """Make one for each credential and selection (scopes=[…], audience="…", …), and keep it: what it has in memory is what it saves."""

    def __init__(self, channel, credential, **selection):
        self._broker = rpc.TokenBrokerServiceStub(channel)
        self._request = pb.GetTokenRequest(credential=credential, **selection)
        self._lock = threading.Lock()  # held while the broker is asked
        self._held = None
        self._rejected = ""
        self._ask_again = 0.0

    def token(self):
        """A token that is valid now, from memory until its refresh_time. A grpc.RpcError says why there is none."""
        held = self._held
        if fresh(held, "refresh_time"):
            return held
        if not self._lock.acquire(blocking=not fresh(held, "expire_time")):
            return held  # another thread asks for the next one
        try:
            if not fresh(self._held, "refresh_time") and not (fresh(self._held, "expire_time") and time.time() < self._ask_again):
                self._held, self._rejected = self._ask(), ""
            return self._held
        except grpc.RpcError:
            if not fresh(self._held, "expire_time"):
                raise
            self._ask_again = time.time() + 10
            return self._held
        finally:
            self._lock.release()

    def _ask(self):
        request = pb.GetTokenRequest(rejected_token_id=self._rejected)
        request.MergeFrom(self._request)
        try:
            return self._broker.GetToken(request, timeout=30).token
        except grpc.RpcError as e:
            if not self._rejected or e.code() != grpc.StatusCode.PERMISSION_DENIED:
                raise
            return self._broker.GetToken(self._request, timeout=30).token  # it may not invalidate: it gets what there is

    def reject(self, token):
        """The API has refused it: it is not answered again, and the broker hears of it when the next one is asked for."""
        with self._lock:
            if self._held and self._held.token_id == token.token_id:
                self._held, self._rejected = None, token.token_id

    def __call__(self, request):
        token = self.token()
        if origin(request.url) != origin(token.base_url):
            raise ValueError(f"{self._request.credential} has tokens for {origin(token.base_url)}, and this request is for {origin(request.url)}")
        dress(request, token)
        request.register_hook("response", Answered(self, token))
        return request


class Answered:
    """What is done with the answers to a request, and to those that redirects make of it. token is None where a redirect has led away from the API."""

    def __init__(self, auth, token):
        self.auth, self.token = auth, token

    def __call__(self, response, **how):
        response = self._answered(response, **how)
        if self.token and self.token.query_parameters:
            response.headers.pop("location", None)  # where the API may have repeated, in any form, the address it was asked by
            response.url = response.request.url = without_query(response.request.url, self.token)  # which errors say
        return response

    def _answered(self, response, **how):
        request = response.request
        if response.status_code == 401 and self.token:
            self.auth.reject(self.token)
            if not replayable(request):
                return response
            try:
                token = self.auth.token()
            except grpc.RpcError:
                return response  # the API has answered, and the broker has no better
            if token.token_id == self.token.token_id or origin(request.url) != origin(token.base_url):
                return response
            response.content, response.close()
            undress(request, self.token)
            dress(request, token)
            self.token = token
            response = response.connection.send(request, **how)
        if response.is_redirect and self.token and not self.token.query_parameters:
            if is_in(self.token, response.headers["location"]):  # as where somebody is to come back to
                del response.headers["location"]
                return response
            if not within(response.headers["location"], self.token) or self.token.cookies:  # requests makes those anew along a redirect
                undress(request, self.token)
                self.token = None
        return response


def fresh(token, until):
    return token is not None and time.time() < getattr(token, until).ToMicroseconds() / 1e6


def dress(request, token):
    """Puts a token on: in the place of what has the same names."""
    for h in token.headers:
        request.headers[h.name] = h.value
    names = {c.name for c in token.cookies}
    kept = [c.strip() for c in request.headers.get("Cookie", "").split(";") if c.strip() and c.split("=")[0].strip() not in names]
    if names:
        request.headers["Cookie"] = "; ".join(kept + [f"{c.name}={c.value}" for c in token.cookies])
    if token.query_parameters:
        url = urlsplit(without_query(request.url, token))
        query = "&".join([q for q in [url.query] if q] + [f"{quote_plus(q.name)}={quote_plus(q.value)}" for q in token.query_parameters])
        request.url = urlunsplit(url._replace(query=query))


def without_query(address, token):
    """An address without the token's query parameters. The others stay as they were written."""
    before, mark, rest = address.partition("?")
    query, hash, fragment = rest.partition("#")
    names = {q.name for q in token.query_parameters}
    kept = "&".join(q for q in query.split("&") if q and unquote_plus(q.split("=")[0]) not in names)
    return before + (mark if kept else "") + kept + hash + fragment


def is_in(token, address):
    """Whether an address has a value of the token's in it, as it is or escaped. What is short is no secret."""
    values = [f.value for f in [*token.headers, *token.cookies] if len(f.value) >= 8]
    values += [token.access_token] if token.access_token else []
    for _ in range(5):
        if any(v in address or quote_plus(v) in address for v in values):
            return True
        address = unquote(address)
    return False


def within(location, token):
    """Whether a redirect plainly stays at the API. Libraries read odd addresses differently: what is not plain is taken for elsewhere."""
    if re.search(r"[\s\\\x00-\x20\x7f]", location):
        return False
    if re.match(r"https?://[^/@]+(?:[/?#]|$)", location):
        return origin(location) == origin(token.base_url)
    return re.match(r"/(?!/)|[?#]|[\w.~%-]+(?:[/?#]|$)", location) is not None


def undress(request, token):
    """Takes off what dress has put into headers; requests takes cookies and the address from elsewhere when it follows a redirect."""
    for h in token.headers:
        request.headers.pop(h.name, None)


def replayable(request):
    """Rewinds a body, and tells whether it can be sent once more."""
    if request.body is None or isinstance(request.body, (str, bytes)):
        return True
    if not isinstance(request._body_position, int):
        return False
    requests.utils.rewind_body(request)
    return True


def origin(url):
    u = urlsplit(url)
    return u.scheme, u.hostname, u.port or {"https": 443, "http": 80}.get(u.scheme)

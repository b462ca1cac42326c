"""Who may say where a request came from.

Tornado's ``xheaders=True`` believes the headers of everybody who connects
(``tornado.httpserver._HTTPRequestContext._apply_xheaders``). Here only named peers are believed; what they
say is read as Tornado reads it.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network

from tornado.httputil import HTTPHeaders
from tornado.netutil import is_valid_ip

from eyewall.arguments import LOOPBACK

# As HTTPHeaders writes them.
HEADERS = frozenset(("X-Request-Id", "X-Real-Ip", "X-Forwarded-For", "X-Scheme", "X-Forwarded-Proto"))

# nginx's $request_id is 32 hex digits; UUIDs, ULIDs and trace ids pass too. No blanks: the id is one column
# of the log, and whoever gets a proxy to pass on a header of his own must not write lines into it.
_REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)

# getaddrinfo, which is_valid_ip calls, is most of what xheaders cost; clients come back.
_valid_ip = lru_cache(maxsize=8192)(is_valid_ip)


class ProxyHeaders:
    """The peers whose headers are believed.

    `trusted` are addresses or networks. An address in ``X-Forwarded-For`` that is trusted is skipped, as Tornado skips
    ``trusted_downstream``, and so are the addresses in `skipped`.
    """

    def __init__(self, trusted: Iterable[str] = LOOPBACK, skipped: Iterable[str] = ()) -> None:
        self._networks = tuple(ip_network(text) for text in trusted)
        self._skipped = frozenset(skipped)
        self.trusts = lru_cache(maxsize=8192)(self._trusts)

    def skipping(self, addresses: Iterable[str]) -> "ProxyHeaders":
        """Return the same with `addresses` skipped in ``X-Forwarded-For`` as well, as Tornado's ``trusted_downstream``."""
        return ProxyHeaders(map(str, self._networks), addresses) if addresses else self

    def _trusts(self, address: str) -> bool:
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._networks)

    def client(self, headers: HTTPHeaders) -> str | None:
        """Return the client's address that a trusted peer's `headers` name, if they name a valid one."""
        if headers.get_list("X-Real-Ip"):
            ip = headers["X-Real-Ip"]
        elif headers.get_list("X-Forwarded-For"):
            for candidate in reversed(headers["X-Forwarded-For"].split(",")):
                ip = candidate.strip()
                if not self.trusts(ip) and ip not in self._skipped:
                    break
        else:
            return None
        return ip if _valid_ip(ip) else None

    def scheme(self, headers: HTTPHeaders) -> str | None:
        """Return ``http`` or ``https`` if a trusted peer's `headers` say so, else None."""
        for name in ("X-Scheme", "X-Forwarded-Proto"):
            if headers.get_list(name):
                scheme = headers[name].rpartition(",")[2].strip()
                return scheme if scheme in ("http", "https") else None
        return None

    def request_id(self, headers: HTTPHeaders) -> str | None:
        """Return the request id of a trusted peer's `headers`, if there is exactly one, well formed."""
        ids = headers.get_list("X-Request-Id")
        if len(ids) == 1 and _REQUEST_ID.fullmatch(ids[0]):
            return ids[0]
        return None

"""Which addresses the web tools may connect to: those of the public internet."""

from ipaddress import IPv6Address, ip_address, ip_network

_UNICAST = ip_network("2000::/3")
"""All public IPv6 addresses. What maps or tunnels IPv4 addresses is outside, but for 6to4."""

_REFUSED = tuple(
    ip_network(network)
    for network in (
        "168.63.129.16/32",  # what runs the machines of Azure: public by its number only
        "192.0.0.0/24",  # of protocols, and what runs the machines of Oracle's cloud
        "192.88.99.0/24",  # 6to4, where an address holds another
        "2002::/16",
        "2001::/23",  # of protocols, Teredo among them
        "3fff::/20",  # for documentation
    )
)
"""Networks that no Python, or not every one, knows to be none of the internet."""


def is_public(address: str) -> bool:
    """Tell whether an address, as a resolver gives it, is one of the public internet."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found not in _UNICAST:
        return False
    if not found.is_global or found.is_multicast:
        return False
    return not any(found in network for network in _REFUSED)

"""Names, as programs ask for them."""

import socket

from kit import behaviour, said


def asked(name, family=0):
    def ask():
        found = socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM)
        return [[one[0].name, one[4][0]] for one in found]

    try:
        return ask()
    except socket.gaierror as error:
        return error.strerror


@behaviour("name.one_family")
def _(net):
    return asked("example.com", net.domain)


@behaviour("name.both_families", families="4")
def _(net):
    return sorted(asked("example.com"))


@behaviour("name.chain")
def _(net):
    return asked("chain.example.com", net.domain)


@behaviour("name.unknown")
def _(net):
    return asked("nothing.invalid", net.domain)


@behaviour("name.numeric", local=True)
def _(net):
    return asked(net.server, net.domain)


@behaviour("name.localhost", families="4", local=True)
def _(net):
    return asked("localhost", net.domain)


@behaviour("name.then_connect")
def _(net):
    return said(lambda: socket.create_connection(("example.com", 80), timeout=3).getpeername()[1])

"""What ss prints, as the benchmark reads it."""

from ipaddress import ip_address

from fedsdn.bench.subflows import Subflow, count, parse

_SS = (
    "ESTAB 0 2112 192.0.2.1:41234 192.0.2.2:1080 tcp-ulp-mptcp flags:Mec token:0000(id:0)/9(id:0)"
    " bbr wscale:10,10 rto:256 rtt:53.611/2.1 ato:40 mss:1448 cwnd:400 bytes_sent:20000000"
    " bytes_acked:19000000 minrtt:30.2\n"
    "ESTAB 0 0 [2001:db8:2::1]:33333 [2001:db8:2::2]:1080 bbr rtt:30/15 mss:1428 cwnd:10\n"
    "ESTAB 0 0 192.0.2.1%wan-up1:5 192.0.2.2:6 rtt:1/1 bytes_sent:7\n"
    "ESTAB 0 0 [::ffff:192.0.2.1]:5 [::ffff:192.0.2.2]:6 rtt:2/1 bytes_sent:8\n"
    "LISTEN 0 4096 *:1080 *:*\n"
)


def test_subflows_of_both_families() -> None:
    v4, v4_other, v6, v6_other = map(
        ip_address, ("192.0.2.1", "192.0.2.2", "2001:db8:2::1", "2001:db8:2::2")
    )
    assert list(parse(_SS)) == [
        Subflow(v4, v4_other, 53.611, 20_000_000),
        Subflow(v6, v6_other, 30.0, 0),
        Subflow(v4, v4_other, 1.0, 7),
        Subflow(v4, v4_other, 2.0, 8),
    ]


def test_nothing_found() -> None:
    assert list(parse("")) == []


def test_connections_from_an_address_are_counted_mapped_or_not() -> None:
    assert count(_SS, ip_address("192.0.2.1")) == 3
    assert count(_SS + "FIN-WAIT-1 0 0 192.0.2.1:7 192.0.2.2:8\n", ip_address("192.0.2.1")) == 3
    assert count(_SS, ip_address("2001:db8:2::1")) == 1
    assert count(_SS, ip_address("192.0.2.11")) == 0

//! The walk over IPv6 extension headers (RFC 8200 §4), which smoltcp does not have.

use smoltcp::wire::IpProtocol;

use super::Malformed;

/// No sane sender chains more; each costs a step.
const MAX_HEADERS: usize = 8;

/// Finds the transport header behind the extension headers.
///
/// Returns the protocol found and its offset in `payload`; a fragment header ends the walk as `IpProtocol::Ipv6Frag`.
pub(super) fn walk(mut next: IpProtocol, payload: &[u8]) -> Result<(IpProtocol, usize), Malformed> {
    let mut offset = 0;
    for _ in 0..MAX_HEADERS {
        match next {
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Route => {
                let [following, length] = *payload.get(offset..).and_then(|p| p.first_chunk()).ok_or(Malformed::Truncated)?;
                // A routing header with segments left wants this host to send the packet somewhere else (RFC 5095).
                if next == IpProtocol::Ipv6Route && segments_left(payload, offset) != 0 {
                    return Err(Malformed::SourceRoute);
                }
                offset += (usize::from(length) + 1) * 8;
                next = IpProtocol::from(following);
            }
            _ => break,
        }
    }
    if matches!(next, IpProtocol::HopByHop | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Route) {
        return Err(Malformed::HeaderChain);
    }
    if offset > payload.len() {
        return Err(Malformed::Truncated);
    }
    Ok((next, offset))
}

fn segments_left(payload: &[u8], offset: usize) -> u8 {
    payload.get(offset + 3).copied().unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_extension_header_is_passed_through() {
        assert_eq!(walk(IpProtocol::Tcp, &[0; 20]), Ok((IpProtocol::Tcp, 0)));
    }

    #[test]
    fn destination_options_are_skipped() {
        let payload = [17, 0, 1, 4, 0, 0, 0, 0, 9, 9];
        assert_eq!(walk(IpProtocol::Ipv6Opts, &payload), Ok((IpProtocol::Udp, 8)));
    }

    #[test]
    fn a_source_route_is_refused() {
        let payload = [6, 2, 0, 1, 0, 0, 0, 0];
        assert_eq!(walk(IpProtocol::Ipv6Route, &payload), Err(Malformed::SourceRoute));
    }

    #[test]
    fn a_header_that_points_past_the_end_is_refused() {
        let payload = [17, 9, 0, 0, 0, 0, 0, 0];
        assert_eq!(walk(IpProtocol::HopByHop, &payload), Err(Malformed::Truncated));
    }

    #[test]
    fn an_endless_chain_is_refused() {
        let payload = [60, 0, 0, 0, 0, 0, 0, 0].repeat(20);
        assert_eq!(walk(IpProtocol::Ipv6Opts, &payload), Err(Malformed::HeaderChain));
    }
}

//! Networks of IP addresses, as settings name them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// All addresses that begin with the same bits: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

impl Network {
    /// A network of IPv4, of a base without bits behind the prefix.
    pub const fn v4(base: [u8; 4], bits: u8) -> Network {
        let [a, b, c, d] = base;
        let base = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
        Network { base, bits }
    }

    /// A network of IPv6, of the first two groups of a base that has no others.
    pub const fn v6(base: [u16; 2], bits: u8) -> Network {
        let [a, b] = base;
        let base = IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0));
        Network { base, bits }
    }

    /// Whether an address is in it. Of the two families none is in the other.
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let differing = base.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let differing = base.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// A text that is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetworkFault {
    /// No address, or no number of bits that it can have.
    #[error("not a network such as 10.0.0.0/8 or fd00::/8")]
    Form,
    /// An address that is meant alone, or a network that is meant otherwise.
    #[error("it has bits behind its prefix")]
    Rest,
    /// IPv4 written as IPv6.
    #[error("it is of IPv4, and to be written so")]
    Mapped,
}

impl FromStr for Network {
    type Err = NetworkFault;

    fn from_str(text: &str) -> Result<Network, NetworkFault> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| NetworkFault::Form)?;
        let bits_max = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // `parse` takes a sign.
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| NetworkFault::Form)?
            }
            Some(_) => return Err(NetworkFault::Form),
            None => bits_max,
        };
        if bits > bits_max {
            return Err(NetworkFault::Form);
        }
        let has_rest = match base {
            IpAddr::V4(base) => base.to_bits().checked_shl(u32::from(bits)).unwrap_or(0) != 0,
            IpAddr::V6(base) => base.to_bits().checked_shl(u32::from(bits)).unwrap_or(0) != 0,
        };
        if has_rest {
            return Err(NetworkFault::Rest);
        }
        if matches!(base, IpAddr::V6(base) if base.to_ipv4_mapped().is_some()) {
            return Err(NetworkFault::Mapped);
        }
        Ok(Network { base, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_the_networks_whose_bits_it_begins_with() {
        for (network, address, is_in) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "a00::", false),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("0.0.0.0/0", "::", false),
            ("192.168.4.2", "192.168.4.2", true),
            ("192.168.4.2", "192.168.4.3", false),
            ("172.16.0.0/12", "172.31.255.255", true),
            ("172.16.0.0/12", "172.32.0.0", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::/0", "2001:db8::1", true),
            ("::1/128", "::1", true),
            ("::1/128", "::2", false),
        ] {
            let read: Network = network.parse().expect(network);
            let address: IpAddr = address.parse().expect(address);
            assert_eq!(read.holds(address), is_in, "{address} in {network}");
        }
    }

    #[test]
    fn a_network_reads_back_and_what_is_none_is_refused() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("127.0.0.1", "127.0.0.1/32"),
            ("FD00::/8", "fd00::/8"),
        ] {
            let network: Network = text.parse().expect(text);
            assert_eq!(network.to_string(), shown);
        }
        use NetworkFault::{Form, Mapped, Rest};
        for (text, fault) in [
            ("", Form),
            ("10.0.0.0/", Form),
            ("10.0.0.0/33", Form),
            ("10.0.0.0/+8", Form),
            ("10.0.0/8", Form),
            ("::/129", Form),
            ("::/999", Form),
            ("host/8", Form),
            ("10.0.0.1/8", Rest),
            ("fd00::1/8", Rest),
            ("0.0.0.1/0", Rest),
            ("::ffff:10.0.0.0/104", Mapped),
            ("::ffff:127.0.0.1", Mapped),
        ] {
            assert_eq!(text.parse::<Network>(), Err(fault), "{text}");
        }
    }
}

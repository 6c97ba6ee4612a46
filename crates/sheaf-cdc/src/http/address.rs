//! Which addresses may be called: a pure decision about the address that a connection is about to be made to.
//!
//! What a name leads to is told by whoever owns the name, and what is reached from here by whoever runs the network. So a name
//! that leads into it, to this machine or to what tells a machine its secrets is not followed there, unless the settings name
//! that network.

use std::net::IpAddr;

use sheaf_model::Network;

/// Why an address is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressRefusal {
    /// It is no address of the public network.
    #[error("{address} is {kind}, which is called only where the settings allow it")]
    Special {
        /// The address.
        address: IpAddr,
        /// What it is.
        kind: &'static str,
    },
    /// All changes of all tenants would cross the public network for everybody to read.
    #[error("{address} is called without encryption only where the settings allow it")]
    Unencrypted {
        /// The address.
        address: IpAddr,
    },
}

/// Everything of IPv4 that is not the public network. The first that holds an address says what it is.
const SPECIAL_V4: [(Network, &str); 17] = [
    (Network::v4([0, 0, 0, 0], 32), "unspecified"),
    (Network::v4([0, 0, 0, 0], 8), "of this network"),
    (Network::v4([10, 0, 0, 0], 8), "private"),
    (Network::v4([100, 64, 0, 0], 10), "shared by a carrier"),
    (Network::v4([127, 0, 0, 0], 8), "this machine"),
    (Network::v4([169, 254, 0, 0], 16), "link-local"),
    (Network::v4([172, 16, 0, 0], 12), "private"),
    (Network::v4([192, 0, 0, 0], 24), "of protocols"),
    (Network::v4([192, 0, 2, 0], 24), "for documentation"),
    (Network::v4([192, 88, 99, 0], 24), "a relay of 6to4"),
    (Network::v4([192, 168, 0, 0], 16), "private"),
    (Network::v4([198, 18, 0, 0], 15), "for benchmarks"),
    (Network::v4([198, 51, 100, 0], 24), "for documentation"),
    (Network::v4([203, 0, 113, 0], 24), "for documentation"),
    // Public by its number, and in one cloud what tells machines about themselves.
    (
        Network::v4([168, 63, 129, 16], 32),
        "of a cloud's own services",
    ),
    (Network::v4([224, 0, 0, 0], 4), "multicast"),
    (Network::v4([240, 0, 0, 0], 4), "reserved"),
];

/// What of the public part of IPv6 is not the public network.
const SPECIAL_V6: [(Network, &str); 4] = [
    // Teredo among them, which has an address of IPv4 in it.
    (Network::v6([0x2001, 0], 23), "of protocols"),
    (Network::v6([0x2001, 0x0db8], 32), "for documentation"),
    (Network::v6([0x2002, 0], 16), "an address of 6to4"),
    (Network::v6([0x3fff, 0], 20), "for documentation"),
];

/// The public part of IPv6.
const PUBLIC_V6: Network = Network::v6([0x2000, 0], 3);

/// Parts of the rest, for whoever reads why.
const OTHER_V6: [(Network, &str); 5] = [
    (Network::v6([0x0064, 0xff9b], 32), "a translation of IPv4"),
    (Network::v6([0xfc00, 0], 7), "private"),
    (Network::v6([0xfe80, 0], 10), "link-local"),
    (Network::v6([0xfec0, 0], 10), "site-local"),
    (Network::v6([0xff00, 0], 8), "multicast"),
];

/// Decides about one address. Gives back the one to connect to, which is the same one.
pub(crate) fn judge(
    address: IpAddr,
    is_encrypted: bool,
    allowed: &[Network],
) -> Result<IpAddr, AddressRefusal> {
    // An address of IPv4 in the form of IPv6 leads where the address leads.
    let address = address.to_canonical();
    if allowed.iter().any(|network| network.holds(address)) {
        return Ok(address);
    }
    if let Some(kind) = special(address) {
        return Err(AddressRefusal::Special { address, kind });
    }
    if !is_encrypted {
        return Err(AddressRefusal::Unencrypted { address });
    }
    Ok(address)
}

/// What an address is that is not one of the public network.
fn special(address: IpAddr) -> Option<&'static str> {
    let named = |networks: &[(Network, &'static str)]| {
        let mut networks = networks.iter();
        let found = networks.find(|(network, _)| network.holds(address));
        found.map(|(_, kind)| *kind)
    };
    let IpAddr::V6(of_v6) = address else {
        return named(&SPECIAL_V4);
    };
    if PUBLIC_V6.holds(address) {
        return named(&SPECIAL_V6);
    }
    if of_v6.is_unspecified() {
        return Some("unspecified");
    }
    if of_v6.is_loopback() {
        return Some("this machine");
    }
    Some(named(&OTHER_V6).unwrap_or("not of the public network"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str, is_encrypted: bool, allowed: &[&str]) -> Result<String, String> {
        let allowed: Vec<Network> = allowed
            .iter()
            .map(|text| text.parse().expect("a network"))
            .collect();
        let address = text.parse().expect("an address");
        let judged = judge(address, is_encrypted, &allowed);
        judged
            .map(|address| address.to_string())
            .map_err(|refusal| match refusal {
                AddressRefusal::Special { kind, .. } => kind.to_owned(),
                AddressRefusal::Unencrypted { .. } => "unencrypted".to_owned(),
            })
    }

    #[test]
    fn addresses_of_the_public_network_alone_are_called() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2000::",
            "2606:4700:4700::1111",
            "2001:200::1",
            "2a00::1",
        ] {
            assert_eq!(judged(address, true, &[]).as_deref(), Ok(address));
        }
        for (address, kind) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "of this network"),
            ("10.0.0.0", "private"),
            ("10.255.255.255", "private"),
            ("100.64.0.0", "shared by a carrier"),
            ("100.100.100.200", "shared by a carrier"),
            ("100.127.255.255", "shared by a carrier"),
            ("127.0.0.1", "this machine"),
            ("127.255.255.255", "this machine"),
            ("169.254.169.254", "link-local"),
            ("169.254.170.2", "link-local"),
            ("172.16.0.0", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "of protocols"),
            ("192.0.2.1", "for documentation"),
            ("192.88.99.1", "a relay of 6to4"),
            ("192.168.0.1", "private"),
            ("198.19.255.255", "for benchmarks"),
            ("198.51.100.1", "for documentation"),
            ("203.0.113.1", "for documentation"),
            ("168.63.129.16", "of a cloud's own services"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "this machine"),
            // IPv4 in every form that IPv6 has for it.
            ("::ffff:127.0.0.1", "this machine"),
            ("::ffff:7f00:1", "this machine"),
            ("::ffff:169.254.169.254", "link-local"),
            ("::ffff:10.1.2.3", "private"),
            ("::ffff:0:10.1.2.3", "not of the public network"),
            ("::127.0.0.1", "not of the public network"),
            ("::169.254.169.254", "not of the public network"),
            ("64:ff9b::127.0.0.1", "a translation of IPv4"),
            ("64:ff9b::8.8.8.8", "a translation of IPv4"),
            ("64:ff9b:1::169.254.169.254", "a translation of IPv4"),
            ("2002:7f00:1::", "an address of 6to4"),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "of protocols"),
            ("2001:20::1", "of protocols"),
            ("2001:db8::1", "for documentation"),
            ("3fff::1", "for documentation"),
            ("100::1", "not of the public network"),
            ("5f00::1", "not of the public network"),
            ("4000::1", "not of the public network"),
            ("fc00::1", "private"),
            ("fd00:ec2::254", "private"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
        ] {
            assert_eq!(
                judged(address, true, &[]).as_ref().map_err(String::as_str),
                Err(kind),
                "{address}"
            );
        }
    }

    #[test]
    fn what_the_settings_name_is_called_and_nothing_beside_it() {
        for (address, is_encrypted, allowed, judgement) in [
            ("10.1.2.3", true, &["10.0.0.0/8"][..], Ok("10.1.2.3")),
            ("10.1.2.3", false, &["10.0.0.0/8"], Ok("10.1.2.3")),
            ("::ffff:10.1.2.3", true, &["10.0.0.0/8"], Ok("10.1.2.3")),
            ("11.1.2.3", false, &["10.0.0.0/8"], Err("unencrypted")),
            ("127.0.0.1", true, &["10.0.0.0/8"], Err("this machine")),
            ("127.0.0.2", true, &["127.0.0.1"], Err("this machine")),
            ("::1", true, &["127.0.0.1"], Err("this machine")),
            ("::1", false, &["10.0.0.0/8", "::1"], Ok("::1")),
            (
                "64:ff9b::808:808",
                true,
                &["8.8.8.8"],
                Err("a translation of IPv4"),
            ),
            (
                "64:ff9b::808:808",
                true,
                &["64:ff9b::/96"],
                Ok("64:ff9b::808:808"),
            ),
            ("1.1.1.1", false, &[], Err("unencrypted")),
            ("1.1.1.1", false, &["1.1.1.1"], Ok("1.1.1.1")),
            ("10.1.2.3", false, &[], Err("private")),
        ] {
            let found = judged(address, is_encrypted, allowed);
            let found = found.as_deref().map_err(String::as_str);
            assert_eq!(found, judgement, "{address} {is_encrypted} {allowed:?}");
        }
    }
}

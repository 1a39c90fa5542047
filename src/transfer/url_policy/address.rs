//! What an IP address is for, as far as a download must know: public, local, or none of a
//! host's. Follows the special-purpose registries of IANA; in doubt an address is not public.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an IP address is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum AddressKind {
    /// Of a host on the internet.
    Public,
    /// The worker itself.
    Loopback,
    /// Of a private network: 10/8, 172.16/12, 192.168/16, `fc00::/7`, `fec0::/10`.
    Private,
    /// Of a provider's network behind a carrier-grade NAT: 100.64/10.
    SharedSpace,
    /// Of the metadata service of a cloud, which hands out credentials.
    Metadata,
    /// Of the wire itself: 169.254/16, `fe80::/10`.
    LinkLocal,
    /// No address: 0/8, `::`. Some systems take it for the worker itself.
    Unspecified,
    /// Everybody on the network.
    Broadcast,
    /// A group of hosts.
    Multicast,
    /// For examples in texts.
    Documentation,
    /// For measuring networks: 198.18/15, `2001:2::/48`.
    Benchmarking,
    /// Through a tunnel that hides where it ends: Teredo, local NAT64.
    Tunnel,
    /// Set aside.
    Reserved,
}

impl AddressKind {
    /// What `address` is for; where it wraps an IPv4 address, what that is for.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }

    /// Whether it is of the worker or of its own network.
    pub fn is_local(self) -> bool {
        matches!(self, AddressKind::Loopback | AddressKind::Private | AddressKind::SharedSpace)
    }
}

/// Completes "an address that …".
impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressKind::Public => "is public",
            AddressKind::Loopback => "is the machine the worker runs on",
            AddressKind::Private => "is in a private network",
            AddressKind::SharedSpace => "is in a provider's network (carrier-grade NAT)",
            AddressKind::Metadata => "is a cloud's metadata service",
            AddressKind::LinkLocal => "is link-local",
            AddressKind::Unspecified => "is unspecified",
            AddressKind::Broadcast => "is a broadcast address",
            AddressKind::Multicast => "is a multicast group",
            AddressKind::Documentation => "is for documentation only",
            AddressKind::Benchmarking => "is for benchmarks of networks only",
            AddressKind::Tunnel => "goes through a tunnel that hides where it ends",
            AddressKind::Reserved => "is reserved",
        })
    }
}

fn of_v4(address: Ipv4Addr) -> AddressKind {
    match address.octets() {
        // AWS, Azure, Google and most others; AWS for containers (ECS, EKS); Scaleway; Tencent.
        [169, 254, 169, 254] | [169, 254, 170, 2 | 23] | [169, 254, 42, 42] | [169, 254, 0, 23] => {
            AddressKind::Metadata
        }
        // Outside of 169.254/16: Azure's host agent; Alibaba; Oracle.
        [168, 63, 129, 16] | [100, 100, 100, 200] | [192, 0, 0, 192] => AddressKind::Metadata,
        [0, ..] => AddressKind::Unspecified,
        [127, ..] => AddressKind::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => AddressKind::Private,
        [100, 64..=127, ..] => AddressKind::SharedSpace,
        [169, 254, ..] => AddressKind::LinkLocal,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => AddressKind::Documentation,
        [198, 18..=19, ..] => AddressKind::Benchmarking,
        // Protocol assignments; the retired relays of 6to4.
        [192, 0, 0, _] | [192, 88, 99, _] => AddressKind::Reserved,
        [255, 255, 255, 255] => AddressKind::Broadcast,
        [224..=239, ..] => AddressKind::Multicast,
        [240..=255, ..] => AddressKind::Reserved,
        _ => AddressKind::Public,
    }
}

fn of_v6(address: Ipv6Addr) -> AddressKind {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => AddressKind::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressKind::Loopback,
        // IPv4-mapped: the kernel connects to the IPv4 address.
        [0, 0, 0, 0, 0, 0xffff, high, low] => of_v4(joined(high, low)),
        // IPv4-compatible, retired; IPv4-translated; NAT64; 6to4.
        [0, 0, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            never_public(of_v4(joined(high, low)))
        }
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => of_v4(joined(high, low)),
        [0x2002, high, low, ..] => of_v4(joined(high, low)),
        [0x64, 0xff9b, ..] | [0x2001, 0, ..] => AddressKind::Tunnel,
        _ if is_metadata_v6(address) => AddressKind::Metadata,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => AddressKind::Private,
        [0xfe80..=0xfebf, ..] => AddressKind::LinkLocal,
        [0xff00..=0xffff, ..] => AddressKind::Multicast,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => AddressKind::Documentation,
        [0x2001, 2, 0, ..] => AddressKind::Benchmarking,
        // Protocol assignments.
        [0x2001, 0..=0x01ff, ..] => AddressKind::Reserved,
        [0x2000..=0x3fff, ..] => AddressKind::Public,
        // All that is given out is in 2000::/3.
        _ => AddressKind::Reserved,
    }
}

/// Metadata services within the addresses of private networks, each as its provider documents it.
fn is_metadata_v6(address: Ipv6Addr) -> bool {
    matches!(
        address.segments(),
        // AWS, whole: metadata (::254), credentials of pods (::23), names, time.
        [0xfd00, 0xec2, ..]
            // Google Cloud.
            | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
            // Oracle Cloud.
            | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
            // Scaleway.
            | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]
            // Akamai, formerly Linode.
            | [0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1]
            // Alibaba Cloud.
            | [0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200]
            // OpenStack and those built on it.
            | [0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
    )
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

/// Forms that no public host has, whatever they wrap.
fn never_public(wrapped: AddressKind) -> AddressKind {
    match wrapped {
        AddressKind::Public => AddressKind::Reserved,
        other => other,
    }
}

//! What lies between the zones: distance. Packets from one zone to another are carried here, and arrive later.
//!
//! Where the kernel has netem, it does this ([`super::netem`]); not every kernel has it, and this needs only the device `tun`. Each zone, the shoppers and the lab
//! hang here with a `tun` of their own. A zone can be cut off (its packets vanish in both directions, and nobody is told, as when
//! a cable is cut) or moved away. Packets keep their order, and a queue that is full drops what comes last.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::network::WAN;
use super::plan::uplinks;

/// From one zone to another, one way.
pub(super) const DISTANCE: Duration = Duration::from_micros(500);
/// From the shoppers and the lab to a zone, one way.
pub(super) const OUTER_DISTANCE: Duration = Duration::from_millis(2);
/// Packets on their way from one to another.
pub(super) const MAX_QUEUE: usize = 8192;
/// Largest packet.
const MAX_PACKET: usize = 65_536;
/// Longest time between two looks for orders.
const LOOK: Duration = Duration::from_millis(20);

/// What is wrong with the links of each zone; nothing is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// Nothing gets through.
    pub(crate) cut: bool,
    /// Everything that leaves the zone takes so much longer, in milliseconds.
    pub(crate) slow_ms: u64,
}

/// Carries packets until `orders` ends. Each order is the faults of all zones. Prints a line when it is ready.
pub(crate) fn run(orders: &Receiver<String>) -> Result<(), String> {
    let ends = uplinks();
    let mut devices = Vec::new();
    for end in &ends {
        let device = open(&end.name).map_err(|error| format!("the link of {}: {error}", end.name))?;
        devices.push(device);
    }
    println!("ready");
    // Nobody may be reading.
    let _ = std::io::stdout().flush();
    let place = |third: u8| ends.iter().position(|end| end.ip.octets()[2] == third);
    let mut faults = vec![Fault::default(); ends.len()];
    let mut queues = Queues::new(ends.len());
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        match orders.try_recv() {
            Ok(line) => {
                let zones: Vec<Fault> =
                    serde_json::from_str(&line).map_err(|error| format!("no list of faults: {error}"))?;
                faults.iter_mut().zip(zones).for_each(|(fault, zone)| *fault = zone);
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        wait(&devices, queues.next_due().map(|due| due.saturating_duration_since(Instant::now())))?;
        let now = Instant::now();
        for (from, device) in devices.iter_mut().enumerate() {
            while let Some(length) = receive(device, &mut buffer)? {
                let packet = &buffer[..length];
                let Some(to) = destination(packet).and_then(place).filter(|to| *to != from) else { continue };
                if faults[from].cut || faults[to].cut {
                    continue;
                }
                let zones = faults.len() - 2;
                let distance = if from < zones && to < zones { DISTANCE } else { OUTER_DISTANCE };
                let slow = Duration::from_millis(faults[from].slow_ms);
                queues.push(from, to, now + distance + slow, packet);
            }
        }
        queues.deliver(Instant::now(), |to, packet| {
            // Of the errors, none matters: a device that takes nothing loses packets, as networks do.
            let _ = devices[to].write(packet);
        });
    }
}

/// Packets on their way, in order of arrival for each pair of ends.
struct Queues {
    ends: usize,
    pairs: Vec<VecDeque<(Instant, Box<[u8]>)>>,
}

impl Queues {
    fn new(ends: usize) -> Self {
        Self { ends, pairs: (0..ends * ends).map(|_| VecDeque::new()).collect() }
    }

    fn push(&mut self, from: usize, to: usize, due: Instant, packet: &[u8]) {
        let queue = &mut self.pairs[from * self.ends + to];
        if queue.len() < MAX_QUEUE {
            // A link that has become faster does not let packets overtake.
            let due = queue.back().map_or(due, |(last, _)| due.max(*last));
            queue.push_back((due, packet.into()));
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.pairs.iter().filter_map(|queue| queue.front()).map(|(due, _)| *due).min()
    }

    fn deliver(&mut self, now: Instant, mut to: impl FnMut(usize, &[u8])) {
        for (pair, queue) in self.pairs.iter_mut().enumerate() {
            while queue.front().is_some_and(|(due, _)| *due <= now) {
                if let Some((_, packet)) = queue.pop_front() {
                    to(pair % self.ends, &packet);
                }
            }
        }
    }
}

/// The third number of the address that an IPv4 packet is for; `None` if it is none, or not for the lab.
fn destination(packet: &[u8]) -> Option<u8> {
    match packet {
        [first, ..] if first >> 4 != 4 => None,
        _ => match packet.get(16..20)? {
            [10, 77, third, _] => Some(*third),
            _ => None,
        },
    }
}

fn receive(device: &mut File, buffer: &mut [u8]) -> Result<Option<usize>, String> {
    match device.read(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(format!("a link is gone: {error}")),
    }
}

/// Waits for a packet, or for so long.
fn wait(devices: &[File], at_most: Option<Duration>) -> Result<(), String> {
    let at_most = at_most.unwrap_or(LOOK).min(LOOK);
    let mut waiting: Vec<_> = devices.iter().map(|device| PollFd::new(device, PollFlags::IN)).collect();
    let at_most = Timespec { tv_sec: 0, tv_nsec: at_most.subsec_nanos().into() };
    match poll(&mut waiting, Some(&at_most)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Attaches to the device of this namespace. The calling thread is in that namespace from then on.
fn open(namespace: &str) -> std::io::Result<File> {
    let inside = File::open(format!("/run/netns/{namespace}"))?;
    move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network))?;
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/net/tun")?;
    /// `struct ifreq` of linux/if.h: a name, and for this call flags.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    const TUNSETIFF: Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
    const IFF_TUN: u16 = 0x0001;
    const IFF_NO_PI: u16 = 0x1000;
    let mut request = Request { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    request.name[..WAN.len()].copy_from_slice(WAN.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is 40 bytes with the layout of `Request`; `Setter` passes a
    // pointer to it that lives through the call. The device is open, and the kernel checks the rest.
    unsafe { ioctl(&device, Setter::<TUNSETIFF, Request>::new(request))? };
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_a_pair_arrive_in_order_when_they_are_due() {
        let (now, ms) = (Instant::now(), Duration::from_millis(1));
        let mut queues = Queues::new(3);
        queues.push(0, 1, now + ms * 300, b"slow");
        queues.push(0, 1, now + ms, b"not overtaking");
        queues.push(2, 1, now + ms, b"another");
        assert_eq!(queues.next_due(), Some(now + ms));
        let mut arrived = Vec::new();
        queues.deliver(now + ms * 2, |to, packet| arrived.push((to, packet.to_vec())));
        assert_eq!(arrived, [(1, b"another".to_vec())]);
        queues.deliver(now + ms * 300, |to, packet| arrived.push((to, packet.to_vec())));
        assert_eq!(arrived[1..], [(1, b"slow".to_vec()), (1, b"not overtaking".to_vec())]);
        assert_eq!(queues.next_due(), None);
    }

    #[test]
    fn a_full_queue_drops_what_comes_last() {
        let now = Instant::now();
        let mut queues = Queues::new(2);
        for number in 0..MAX_QUEUE + 5 {
            queues.push(0, 1, now, &number.to_be_bytes());
        }
        let mut last = 0;
        queues.deliver(now, |_, packet| last = usize::from_be_bytes(packet.try_into().unwrap()));
        assert_eq!(last, MAX_QUEUE - 1);
    }

    #[test]
    fn only_packets_for_the_lab_are_carried() {
        let mut packet = [0; 20];
        packet[0] = 0x45;
        packet[16..].copy_from_slice(&[10, 77, 3, 10]);
        assert_eq!(destination(&packet), Some(3));
        packet[16] = 192;
        assert_eq!(destination(&packet), None);
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None);
        assert_eq!(destination(&packet[..10]), None);
    }
}

//! What becomes of a file for which the disk has no room.
//!
//! A file that does not fit fills the disk until its part is removed, and whatever is written meanwhile finds no
//! room either. So the file is given up, the others go on, and those that are small are tried again. Where a small
//! file finds no room although no larger one was on its way, nothing else fits: then all of it stops. So it does
//! after many files in a row that found none, whatever their size: to fetch the rest would be in vain.

/// From this size on a file is one that may fill a disk: 1 MiB.
pub const LARGE_BYTES: u64 = 1 << 20;

/// So many files in a row without room, and none that was stored between them, stop the rest: 20.
pub const MOST_IN_A_ROW: u32 = 20;

/// The files on their way to one disk.
#[derive(Debug, Default)]
pub struct DiskRoom {
    /// How many of them are large.
    large: usize,
    /// How often a large one went away without being stored: its room is free again.
    given_back: u64,
    /// Files that found no room since one was stored.
    in_a_row: u32,
}

/// A file on its way.
#[derive(Debug)]
pub struct OnItsWay {
    is_large: bool,
    /// What was given back before it began.
    given_back: u64,
}

/// What becomes of a file that found no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoRoom {
    /// It is too large for what is left.
    GiveUp,
    /// A larger one had the room, and has it no more, or not for long.
    Later,
    /// Nothing fits.
    Stop,
}

impl DiskRoom {
    /// A file begins.
    pub fn on_begin(&mut self) -> OnItsWay {
        OnItsWay { is_large: false, given_back: self.given_back }
    }

    /// A file has so many bytes, or will have them.
    pub fn on_bytes(&mut self, file: &mut OnItsWay, bytes: u64) {
        if bytes >= LARGE_BYTES && !file.is_large {
            file.is_large = true;
            self.large += 1;
        }
    }

    /// A file found no room. Its part is gone.
    pub fn on_no_room(&mut self, file: &OnItsWay) -> NoRoom {
        if !file.is_large {
            let had_the_room = self.large > 0 || self.given_back != file.given_back;
            return if had_the_room { NoRoom::Later } else { NoRoom::Stop };
        }
        self.in_a_row += 1;
        if self.in_a_row >= MOST_IN_A_ROW { NoRoom::Stop } else { NoRoom::GiveUp }
    }

    /// A file is over.
    pub fn on_end(&mut self, file: &OnItsWay, is_stored: bool) {
        if is_stored {
            self.in_a_row = 0;
        }
        if file.is_large {
            self.large -= 1;
            self.given_back += u64::from(!is_stored);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(room: &mut DiskRoom, bytes: u64) -> OnItsWay {
        let mut file = room.on_begin();
        room.on_bytes(&mut file, bytes);
        file
    }

    #[test]
    fn a_large_file_is_given_up_and_a_small_one_beside_it_is_tried_again() {
        let mut room = DiskRoom::default();
        let (large, small, late) =
            (begun(&mut room, LARGE_BYTES), begun(&mut room, 3), begun(&mut room, 3));
        assert_eq!(room.on_no_room(&small), NoRoom::Later);
        room.on_end(&small, false);
        assert_eq!(room.on_no_room(&large), NoRoom::GiveUp);
        room.on_end(&large, false);
        // It was written to before the room was given back.
        assert_eq!(room.on_no_room(&late), NoRoom::Later);
        room.on_end(&late, false);
        let again = begun(&mut room, 3);
        assert_eq!(room.on_no_room(&again), NoRoom::Stop);
    }

    #[test]
    fn a_file_is_large_once_it_has_so_many_bytes() {
        let mut room = DiskRoom::default();
        let mut growing = begun(&mut room, LARGE_BYTES - 1);
        assert_eq!(room.on_no_room(&growing), NoRoom::Stop);
        for _ in 0..2 {
            room.on_bytes(&mut growing, LARGE_BYTES);
        }
        let small = begun(&mut room, 3);
        room.on_end(&growing, true);
        assert_eq!(room.on_no_room(&small), NoRoom::Stop, "what is stored gives nothing back");
    }

    #[test]
    fn many_large_ones_in_a_row_stop_the_rest() {
        let mut room = DiskRoom::default();
        let no_room = |room: &mut DiskRoom| {
            let file = begun(room, 2 * LARGE_BYTES);
            let verdict = room.on_no_room(&file);
            room.on_end(&file, false);
            verdict
        };
        for _ in 1..MOST_IN_A_ROW {
            assert_eq!(no_room(&mut room), NoRoom::GiveUp);
        }
        let stored = begun(&mut room, 3);
        room.on_end(&stored, true);
        for _ in 1..MOST_IN_A_ROW {
            assert_eq!(no_room(&mut room), NoRoom::GiveUp);
        }
        assert_eq!(no_room(&mut room), NoRoom::Stop);
    }
}

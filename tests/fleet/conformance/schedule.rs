//! Puts calls on one record in an order, where the order of the writes is known.
//!
//! Each write is given the earliest moment it can have had: not before it began, not before the
//! write before it, and not before a read of what it replaced began. That is a good choice if
//! there is one, because all other limits are upper ones: a call is applied before it ends.

/// When a call can have been applied: between its beginning and its end.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub begin: u64,
    /// Without an answer there is no limit.
    pub end: Option<u64>,
}

impl Span {
    fn allows(self, moment: u64) -> bool {
        self.end.is_none_or(|end| moment <= end)
    }
}

/// A call that changes nothing: which one, and the state it saw, counted in writes.
#[derive(Clone, Copy, Debug)]
pub enum Look {
    /// It saw what that many writes had left.
    At { call: usize, state: usize },
    /// It saw what that many writes, or more, had left.
    AtOrAfter { call: usize, state: usize },
}

/// A call for which there is no place.
#[derive(Debug)]
pub struct Misplaced {
    pub call: usize,
    pub why: &'static str,
}

/// Orders the calls: `writes` in their order, and the looks between them. Returns them by number.
///
/// # Errors
/// The call for which there is no place.
pub fn order(spans: &[Span], writes: &[usize], looks: &[Look]) -> Result<Vec<usize>, Misplaced> {
    let mut looked = vec![0; writes.len() + 1];
    for look in looks {
        if let Look::At { call, state } = *look {
            looked[state] = looked[state].max(spans[call].begin);
        }
    }
    let mut moments = vec![0];
    for (state, &call) in writes.iter().enumerate() {
        let moment = spans[call].begin.max(moments[state]).max(looked[state]);
        if !spans[call].allows(moment) {
            return Err(Misplaced { call, why: "what it replaced was read after it had ended" });
        }
        moments.push(moment);
    }
    let placed = writes.iter().enumerate();
    let mut order: Vec<(u64, usize, bool, usize)> =
        placed.map(|(before, &call)| (moments[before + 1], before + 1, false, call)).collect();
    for look in looks {
        let (Look::At { call, state } | Look::AtOrAfter { call, state }) = *look;
        let moment = moments[state].max(spans[call].begin);
        if !spans[call].allows(moment) {
            return Err(Misplaced { call, why: "it ended before what it was told became true" });
        }
        order.push((moment, state, true, call));
    }
    order.sort_unstable();
    let order: Vec<usize> = order.into_iter().map(|(_, _, _, call)| call).collect();
    respects_time(spans, &order)?;
    Ok(order)
}

/// Whether no call comes before one that had ended when it began.
fn respects_time(spans: &[Span], order: &[usize]) -> Result<(), Misplaced> {
    let mut latest_begin = 0;
    for &call in order {
        latest_begin = latest_begin.max(spans[call].begin);
        if !spans[call].allows(latest_begin) {
            return Err(Misplaced {
                call,
                why: "it comes after a call that began when it was over",
            });
        }
    }
    Ok(())
}

//! `import`: checkpoints from lines, after all of them were checked.

use super::guarded::{Guarded, Written, forced_note};
use super::opened::{Missing, Opened, WITHOUT_HUB};
use super::outcome::{Outcome, Report};
use super::{ImportArgs, line};
use crate::configured::refuse;
use crate::{CommandError, Ending};
use longshore::state::reset::restore;

pub(super) async fn run(args: ImportArgs) -> Result<Ending, CommandError> {
    let ImportArgs { from, force, common } = args;
    let Some(configured) = common.config.read(common.report, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let shown = from.display();
    let text = match std::fs::read_to_string(&from) {
        Ok(text) => text,
        Err(error) => {
            refuse(&[format!("{shown} cannot be read: {error}")], common.report);
            return Ok(Ending::Unusable);
        }
    };
    let opened = Opened::new(configured, Missing::Created)?;
    let kept = match line::read(&text, &opened.scope) {
        Ok(kept) => kept,
        Err(mut wrong) => {
            wrong.iter_mut().for_each(|wrong| *wrong = format!("{shown}, {wrong}"));
            wrong.push("nothing was written".to_owned());
            refuse(&wrong, common.report);
            return Ok(Ending::Unusable);
        }
    };
    let guarded = Guarded::new(&opened, force.into()).await?;
    let mut report = Report::default();
    for (partition, kept) in kept {
        let write = guarded.write(&partition, |stored, write_id| restore(stored, &kept, write_id));
        let outcome = match write.await {
            Written::Done(change) => {
                let notes = change.owner.iter().map(forced_note).collect();
                Outcome::written(*change, notes)
            }
            Written::Refused(why) => Outcome::refused(why),
            Written::Failed(why) => Outcome::failed(why),
        };
        report.add(&partition, outcome);
    }
    report.give(&opened, common.report)
}

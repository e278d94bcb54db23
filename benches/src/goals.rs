//! The goals, each beside what was measured in this run. A missed goal says by how much; nothing is rounded in its favour.

use serde::Serialize;

use crate::hit::goals as hit_goals;
use crate::put::goals as put_goals;
use crate::report::{Section, digits};

/// Which side of its bar a figure has to be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    AtLeast,
    AtMost,
    Below,
}

/// One goal.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Goal {
    pub(crate) goal: String,
    pub(crate) bar: Bar,
    pub(crate) wanted: f64,
    pub(crate) unit: &'static str,
    pub(crate) measured: Option<f64>,
    pub(crate) verdict: String,
}

impl Goal {
    pub(crate) fn new(
        goal: impl Into<String>,
        bar: Bar,
        wanted: f64,
        unit: &'static str,
        measured: Option<f64>,
    ) -> Self {
        Self { goal: goal.into(), bar, wanted, unit, measured, verdict: verdict(bar, wanted, measured) }
    }

    /// A ratio of two figures that has to be at least `wanted`.
    pub(crate) fn ratio(goal: impl Into<String>, wanted: f64, above: Option<f64>, below: Option<f64>) -> Self {
        let measured = above.zip(below).map(|(above, below)| above / below);
        Self::new(goal, Bar::AtLeast, wanted, "x", measured)
    }

    /// Says where even a plain copy of this run would miss the goal; the verdict on the figure stays as it is.
    pub(crate) fn with_ceiling(mut self, ceiling: Option<f64>) -> Self {
        if let Some(ceiling) = ceiling.filter(|ceiling| *ceiling < self.wanted) {
            self.verdict = format!("{} (memcpy itself reaches {} {} here)", self.verdict, digits(ceiling), self.unit);
        }
        self
    }

    pub(crate) fn markdown(&self) -> String {
        let sign = match self.bar {
            Bar::AtLeast => ">=",
            Bar::AtMost => "<=",
            Bar::Below => "<",
        };
        let measured =
            self.measured.map_or_else(|| "-".to_owned(), |figure| format!("{} {}", digits(figure), self.unit));
        format!("| {} | {sign} {} {} | {measured} | {} |", self.goal, digits(self.wanted), self.unit, self.verdict)
    }
}

fn verdict(bar: Bar, wanted: f64, measured: Option<f64>) -> String {
    let Some(measured) = measured else {
        return "not measured".to_owned();
    };
    let (met, missed_by) = match bar {
        Bar::AtLeast => (measured >= wanted, 1.0 - measured / wanted),
        Bar::AtMost => (measured <= wanted, measured / wanted - 1.0),
        Bar::Below => (measured < wanted, measured / wanted - 1.0),
    };
    if met {
        return "met".to_owned();
    }
    // Rounded up, so that a goal is never missed by 0 %.
    let tenths = (missed_by * 1000.0).ceil().max(1.0);
    format!("missed by {:.1} %", tenths / 10.0)
}

/// Every goal that a run's sections speak of.
pub(crate) fn of(sections: &[Section]) -> Vec<Goal> {
    let mut goals = Vec::new();
    for section in sections {
        goals.extend(hit_goals::of(section));
        goals.extend(put_goals::of(section));
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_on_its_bar_is_met_and_a_hair_off_is_missed() {
        assert_eq!(verdict(Bar::AtLeast, 4.0, Some(4.0)), "met");
        assert_eq!(verdict(Bar::AtMost, 80.0, Some(80.0)), "met");
        assert_eq!(verdict(Bar::AtMost, 80.0, Some(80.000_1)), "missed by 0.1 %");
        assert_eq!(verdict(Bar::AtLeast, 4.0, Some(3.0)), "missed by 25.0 %");
        assert_eq!(verdict(Bar::Below, 10.0, Some(10.0)), "missed by 0.1 %");
        assert_eq!(verdict(Bar::AtLeast, 4.0, None), "not measured");
    }
}

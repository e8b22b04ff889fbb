//! The numbers of a run.

use std::fmt;

use crate::client::Run;
use crate::machine::Fact;
use crate::subject::{LeftOut, Role, Subject};
use crate::workload::Workload;

/// What one measure gave in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Nanoseconds for one operation.
    pub(crate) nanos: f64,
    /// CPU time that the server used for it, in nanoseconds.
    pub(crate) server: f64,
}

impl Sample {
    /// From the totals of a round.
    pub(crate) fn new(operations: u64, nanos: u64, server_nanos: u64) -> Self {
        let operations = operations.max(1) as f64;
        Self { nanos: nanos as f64 / operations, server: server_nanos as f64 / operations }
    }
}

/// What else the machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Situation {
    /// Nothing.
    Quiet,
    /// Every CPU has a process of the lowest priority.
    Busy,
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Situation::Quiet => "quiet machine",
            Situation::Busy => "busy machine",
        })
    }
}

/// Median, least and most of some numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` without numbers.
    pub(crate) fn of(mut numbers: Vec<f64>) -> Option<Self> {
        numbers.sort_by(f64::total_cmp);
        let (least, most) = (*numbers.first()?, *numbers.last()?);
        let middle = numbers.len() / 2;
        let median = if numbers.len().is_multiple_of(2) {
            f64::midpoint(numbers[middle - 1], numbers[middle])
        } else {
            numbers[middle]
        };
        Some(Self { median, least, most })
    }
}

/// All samples of one measure on one subject.
pub(crate) struct Series {
    pub(crate) situation: Situation,
    pub(crate) subject: String,
    pub(crate) measure: String,
    pub(crate) samples: Vec<Sample>,
}

impl Series {
    /// Time of one operation.
    pub(crate) fn time(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().map(|sample| sample.nanos).collect())
    }

    /// The server's CPU time for one operation.
    pub(crate) fn server(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().map(|sample| sample.server).collect())
    }
}

/// The most memory that a server had in a workload.
pub(crate) struct Memory {
    pub(crate) subject: String,
    pub(crate) workload: &'static str,
    pub(crate) kib: u64,
}

/// What did not work.
pub(crate) struct Failure {
    pub(crate) situation: Situation,
    pub(crate) subject: String,
    pub(crate) workload: &'static str,
    pub(crate) why: String,
}

/// Everything that the report needs.
pub(crate) struct Results {
    pub(crate) machine: Vec<Fact>,
    pub(crate) command: String,
    pub(crate) subjects: Vec<(String, Role)>,
    pub(crate) left_out: LeftOut,
    pub(crate) series: Vec<Series>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) failures: Vec<Failure>,
}

impl Results {
    /// Without a sample yet.
    pub(crate) fn new(machine: Vec<Fact>, command: String, left_out: LeftOut) -> Self {
        Self {
            machine,
            command,
            subjects: Vec::new(),
            left_out,
            series: Vec::new(),
            memory: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Names what is compared, in the order of the tables.
    pub(crate) fn set_subjects(&mut self, subjects: &[Subject]) {
        self.subjects = subjects.iter().map(|s| (s.name.clone(), s.role())).collect();
        for subject in subjects {
            if let Some(fact) = crate::machine::version(subject) {
                self.machine.push(fact);
            }
        }
    }

    /// Takes the samples of one round.
    pub(crate) fn add(
        &mut self,
        situation: Situation,
        subject: &Subject,
        workload: &Workload,
        run: Run,
    ) {
        for (measure, sample) in run.samples {
            let known = self.series.iter_mut().find(|s| {
                s.situation == situation && s.subject == subject.name && s.measure == measure
            });
            match known {
                Some(series) => series.samples.push(sample),
                None => self.series.push(Series {
                    situation,
                    subject: subject.name.clone(),
                    measure,
                    samples: vec![sample],
                }),
            }
        }
        let Some(kib) = run.memory else { return };
        let known = self
            .memory
            .iter_mut()
            .find(|m| m.subject == subject.name && m.workload == workload.name);
        match known {
            Some(memory) => memory.kib = memory.kib.max(kib),
            None => self.memory.push(Memory {
                subject: subject.name.clone(),
                workload: workload.name,
                kib,
            }),
        }
    }

    /// Notes what did not work.
    pub(crate) fn add_failure(
        &mut self,
        situation: Situation,
        subject: &str,
        workload: &Workload,
        why: String,
    ) {
        let subject = subject.to_owned();
        self.failures.push(Failure { situation, subject, workload: workload.name, why });
    }

    /// The times of a measure on a subject.
    pub(crate) fn series(
        &self,
        situation: Situation,
        subject: &str,
        measure: &str,
    ) -> Option<&Series> {
        self.series
            .iter()
            .find(|s| s.situation == situation && s.subject == subject && s.measure == measure)
    }

    /// The median time of a measure on a subject.
    pub(crate) fn median(&self, situation: Situation, subject: &str, measure: &str) -> Option<f64> {
        Some(self.series(situation, subject, measure)?.time()?.median)
    }

    /// The subjects with this part in the comparison.
    pub(crate) fn with_role(&self, role: Role) -> impl Iterator<Item = &str> {
        self.subjects.iter().filter(move |(_, r)| *r == role).map(|(name, _)| name.as_str())
    }

    /// The fastest peer in a measure and its median.
    pub(crate) fn best_peer(&self, situation: Situation, measure: &str) -> Option<(&str, f64)> {
        self.with_role(Role::Peer)
            .filter_map(|peer| Some((peer, self.median(situation, peer, measure)?)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

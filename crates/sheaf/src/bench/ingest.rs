//! Writing: events over HTTP with everything that sheaf does for them, against what PostgreSQL does with the same events.

pub(super) mod bodies;
mod by_hand;
mod edits;
mod fairness;
pub(super) mod generators;
mod growth;
pub(super) mod load;
mod memory;
mod original;
mod staged;
mod staging;
mod throughput;
pub(super) mod turns;

use std::path::Path;

use anyhow::Result;

use super::Scale;
use super::plot::Sample;
use super::report::{Better, Line, Report};
use super::world::World;
use crate::cli::BenchArgs;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Ndjson,
    LineProtocol,
    Original,
    Agents,
    OneValue,
    WideDocuments,
    Sparse,
    HotFew,
    TextIds,
    LateDuplicate,
    TwoServers,
    SingleEdit,
    EditClients,
    Growth,
    Memory,
    Fairness,
    Staged,
}

impl Case {
    /// Every case by its name, in the order in which they run.
    pub(super) const NAMES: [(&'static str, Case); 17] = [
        ("ndjson", Case::Ndjson),
        ("line_protocol", Case::LineProtocol),
        ("original", Case::Original),
        ("agents", Case::Agents),
        ("one_value", Case::OneValue),
        ("wide_documents", Case::WideDocuments),
        ("sparse", Case::Sparse),
        ("hot_few", Case::HotFew),
        ("text_ids", Case::TextIds),
        ("late_duplicate", Case::LateDuplicate),
        ("two_servers", Case::TwoServers),
        ("single_edit", Case::SingleEdit),
        ("edit_clients", Case::EditClients),
        ("growth", Case::Growth),
        ("memory", Case::Memory),
        ("fairness", Case::Fairness),
        ("staged", Case::Staged),
    ];

    /// The case of a name.
    pub(super) fn find(name: &str) -> Option<(&'static str, Case)> {
        Case::NAMES.into_iter().find(|(known, _)| *known == name)
    }
}

/// What a case measures on, and where it reports.
struct Bench<'a> {
    world: &'a World,
    scale: Scale,
    name: &'static str,
    svg: Option<&'a Path>,
    minutes: Option<u32>,
    millions: u32,
    report: &'a mut Report,
}

impl Bench<'_> {
    /// A measure of this case, with one figure a round.
    fn line(
        &self,
        measure: impl Into<std::borrow::Cow<'static, str>>,
        unit: &'static str,
        better: Better,
        figures: Vec<f64>,
    ) -> Line {
        Line::new(("ingest", self.name), measure, unit, better, figures)
    }

    /// Draws this case, if pictures are asked for.
    fn draw(&self, unit: &str, samples: &[Sample]) -> Result<()> {
        match self.svg {
            Some(dir) => super::plot::draw(dir, self.name, unit, samples),
            None => Ok(()),
        }
    }
}

/// Runs one case.
pub(super) async fn run(
    world: &World,
    args: &BenchArgs,
    (name, case): (&'static str, Case),
    report: &mut Report,
) -> Result<()> {
    let mut bench = Bench {
        world,
        scale: args.scale,
        name,
        svg: args.svg.as_deref(),
        minutes: args.minutes,
        millions: args.millions,
        report,
    };
    let bench = &mut bench;
    match case {
        Case::Ndjson => throughput::ndjson(bench).await,
        Case::LineProtocol => throughput::line_protocol(bench).await,
        Case::Original => throughput::original(bench).await,
        Case::Agents => throughput::agents(bench).await,
        Case::OneValue => throughput::one_value(bench).await,
        Case::WideDocuments => throughput::wide_documents(bench).await,
        Case::Sparse => throughput::sparse(bench).await,
        Case::HotFew => throughput::hot_few(bench).await,
        Case::TextIds => growth::text_ids(bench).await,
        Case::LateDuplicate => throughput::late_duplicate(bench).await,
        Case::TwoServers => throughput::two_servers(bench).await,
        Case::SingleEdit => edits::single_edit(bench).await,
        Case::EditClients => edits::edit_clients(bench).await,
        Case::Growth => growth::run(bench).await,
        Case::Memory => memory::run(bench).await,
        Case::Fairness => fairness::run(bench).await,
        Case::Staged => staged::run(bench).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_found_by_its_own_name_alone() {
        for (name, case) in Case::NAMES {
            assert_eq!(Case::find(name), Some((name, case)));
        }
        assert_eq!(Case::find("ndjso"), None);
    }
}

//! One picture: each measure a line, each subject a dot at its ratio to the kernel's mount.

use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;

use crate::failure::{Result, Say};
use crate::results::{Results, Situation};
use crate::subject::Role;
use crate::workload;

/// Height of a measure's line, and the room for names at the left, in pixels.
const LINE: u32 = 22;
const NAMES: i32 = 150;
const HEAD: u32 = 110;
const WIDTH: u32 = 1000;

/// Writes the picture of one situation.
pub(super) fn write(results: &Results, situation: Situation, path: &Path) -> Result<()> {
    let Some(kernel) = results.with_role(Role::Kernel).next() else { return Ok(()) };
    let measures: Vec<(&str, f64)> = workload::ALL
        .iter()
        .filter(|workload| workload.group != workload::Group::Server)
        .flat_map(|workload| workload.measures)
        .filter_map(|m| Some((m.name, results.median(situation, kernel, m.name)?)))
        .collect();
    let dots: Vec<(usize, Vec<(f64, f64)>)> = (0..results.subjects.len())
        .map(|index| {
            let name = &results.subjects[index].0;
            let ratio = |(line, (measure, limit)): (usize, &(&str, f64))| {
                Some((results.median(situation, name, measure)? / limit, line as f64 + 0.5))
            };
            (index, measures.iter().enumerate().filter_map(ratio).collect())
        })
        .collect();
    if measures.is_empty() {
        return Ok(());
    }
    let ratios = || dots.iter().flat_map(|(_, dots)| dots).map(|dot| dot.0);
    let range = ratios().fold(0.8, f64::min) * 0.9..ratios().fold(2.0, f64::max) * 1.1;
    let height = HEAD + LINE * u32::try_from(measures.len()).unwrap_or(0);
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    draw(&area, results, &measures, &dots, range).map_err(|why| format!("the plot: {why}"))?;
    area.present().say("the plot")
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(
    area: &Area<'_>,
    results: &Results,
    measures: &[(&str, f64)],
    dots: &[(usize, Vec<(f64, f64)>)],
    range: Range<f64>,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let count = measures.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(20)
        .margin_top(60)
        .margin_left(NAMES)
        .x_label_area_size(30)
        // The first measure stands at the top.
        .build_cartesian_2d(range.log_scale(), count..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(WHITE.mix(0.0))
        .x_desc("times the kernel's idmapped mount (less is better)")
        .draw()?;
    let limit = PathElement::new(vec![(1.0, 0.0), (1.0, count)], BLACK.mix(0.4));
    chart.draw_series([limit])?;
    let plain = ("sans-serif", 13).into_font();
    for (line, (name, _)) in measures.iter().enumerate() {
        let line = i32::try_from(line * LINE as usize).unwrap_or(0);
        area.draw(&Text::new((*name).to_owned(), (8, 60 + line + 4), plain.clone()))?;
    }
    for (index, dots) in dots {
        let style = colour(results.subjects[*index].1, *index);
        chart.draw_series(dots.iter().map(|dot| Circle::new(*dot, 5, style)))?;
    }
    for (place, (name, role)) in results.subjects.iter().enumerate() {
        let row = i32::try_from(place / 4).unwrap_or(0);
        let column = i32::try_from(place % 4).unwrap_or(0);
        let (x, y) = (10 + column * 245, 12 + row * 17);
        area.draw(&Circle::new((x, y), 5, colour(*role, place)))?;
        area.draw(&Text::new(name.clone(), (x + 10, y - 6), plain.clone()))?;
    }
    Ok(())
}

/// Ours in blues and greens, peers in reds and yellows, the kernel black, native grey.
fn colour(role: Role, index: usize) -> ShapeStyle {
    let shade = index as f64 * 0.07;
    let colour = match role {
        Role::Native => RGBColor(170, 170, 170).to_rgba(),
        Role::Kernel => BLACK.to_rgba(),
        Role::Floor => RGBColor(90, 110, 160).to_rgba(),
        Role::Ours => HSLColor((0.36 + shade).min(0.8), 0.75, 0.42).to_rgba(),
        Role::Peer => HSLColor((shade * 0.6 + 0.6) % 0.17, 0.9, 0.47).to_rgba(),
    };
    colour.mix(0.8).filled()
}

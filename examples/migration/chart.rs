//! The chart: answers by credential over time, one panel for each way to call.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use tower_credential_fallback::BoxError;

use crate::rehearsal::{Point, Report};

const PERSONAL: RGBColor = RGBColor(31, 119, 180);
const ENTERPRISE: RGBColor = RGBColor(255, 127, 14);

pub(crate) fn draw(path: &Path, runs: [(&str, &Report); 2]) -> Result<(), BoxError> {
    let area = SVGBackend::new(path, (900, 640)).into_drawing_area();
    area.fill(&WHITE)?;
    let most = runs
        .iter()
        .flat_map(|(_, run)| &run.points)
        .map(|point| point.by_primary.max(point.by_fallback))
        .max();
    for (panel, (name, run)) in area.split_evenly((2, 1)).iter().zip(runs) {
        draw_run(panel, name, run, most.unwrap_or(1))?;
    }
    area.present()?;
    Ok(())
}

fn draw_run<DB>(panel: &DrawingArea<DB, Shift>, name: &str, run: &Report, most: u64) -> Result<(), BoxError>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let seconds = |point: &Point| point.at.as_secs_f64();
    let end = run.points.last().map_or(1.0, seconds);
    let title = format!("{name}: answers per 0.1 s, {} failed calls", run.failed());
    let mut chart = ChartBuilder::on(panel)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..end, 0..most + most / 10 + 1)?;
    chart
        .configure_mesh()
        .x_desc("seconds (shaded: the bots move, one by one; first there, then back)")
        .light_line_style(WHITE)
        .draw()?;
    let moves = run.moves.iter().map(|(from, to)| {
        let corners = [(from.as_secs_f64(), 0), (to.as_secs_f64(), most + most / 10)];
        Rectangle::new(corners, BLACK.mix(0.06).filled())
    });
    chart.draw_series(moves)?;
    for (label, colour, is_primary) in
        [("personal credential", PERSONAL, true), ("enterprise credential", ENTERPRISE, false)]
    {
        let answers = |point: &Point| if is_primary { point.by_primary } else { point.by_fallback };
        let line = run.points.iter().map(|point| (seconds(point), answers(point)));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

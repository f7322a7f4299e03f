//! Aligned columns.

use super::look::{Look, columns, pad};

/// Rows under a heading; columns are as wide as they must be, and nothing is cut.
#[derive(Debug)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { headings: headings.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// One line each, the heading first; no lines when there are no rows.
    pub fn lines(&self, look: &Look) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.chain(self.headings.get(column)).map(|cell| columns(cell)).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.headings.len()).map(width).collect();
        let line = |cells: &[String]| {
            let cells: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| pad(cell, *width)).collect();
            cells.join("  ").trim_end().to_owned()
        };
        let heading = look.dim(&line(&self.headings));
        std::iter::once(heading).chain(self.rows.iter().map(|row| line(row))).collect()
    }

    /// The lines as one text.
    pub fn text(&self, look: &Look) -> String {
        self.lines(look).into_iter().map(|line| line + "\n").collect()
    }
}

//! Simulations: one seed, many, those that failed once, and the bugs that some seed must find.

#![allow(clippy::print_stderr, reason = "what a night's seeds did is read on the screen")]

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What became of a seed.
#[derive(Debug)]
pub struct Ran {
    pub violations: Vec<String>,
    pub trace: Vec<String>,
    pub totals: BTreeMap<&'static str, u64>,
}

/// A simulation, by a seed and a bug that is switched on.
#[derive(Debug)]
pub struct Simulation<M> {
    /// The name of its binary; `VIGIE_SIM_…` are the variables of `sim`.
    pub name: &'static str,
    pub run: fn(u64, Option<M>) -> Ran,
    /// What continuous integration gives it: so many seeds, within so long.
    pub seeds: u64,
    pub longest: Duration,
    /// Seeds that found something once, a line each; `#` begins a remark.
    pub failed: &'static str,
}

impl<M: Copy + Debug> Simulation<M> {
    /// The seed of `VIGIE_…_SEED` with its whole trace; the first one otherwise.
    ///
    /// # Panics
    /// When it breaks something.
    pub fn one_seed(&self) {
        let wanted = self.number("SEED");
        let seed = wanted.unwrap_or(1);
        let ran = (self.run)(seed, None);
        if wanted.is_some() {
            eprintln!("{}", ran.trace.join("\n"));
        }
        self.holds(seed, &ran);
    }

    /// `VIGIE_…_SEEDS` of them, from `VIGIE_…_FIRST` on, and with `VIGIE_…_ALL` beyond the first failure. Prints what they did.
    ///
    /// # Panics
    /// When one breaks something.
    pub fn many_seeds(&self) {
        let (first, seeds) = (self.number("FIRST").unwrap_or(1), self.number("SEEDS"));
        let until = seeds.is_none().then(|| Instant::now() + self.longest);
        let end = first + seeds.unwrap_or(self.seeds);
        let all = self.number("ALL").is_some();
        let began = Instant::now();
        let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
        let seen = Mutex::new((BTreeMap::<_, u64>::new(), Vec::new()));
        let work = || {
            while !stop.load(Ordering::SeqCst) && until.is_none_or(|until| Instant::now() < until) {
                let seed = next.fetch_add(1, Ordering::SeqCst);
                if seed >= end {
                    return;
                }
                let ran = (self.run)(seed, None);
                let (totals, failed) = &mut *seen.lock().unwrap_or_else(PoisonError::into_inner);
                *totals.entry("seeds").or_default() += 1;
                for (what, times) in &ran.totals {
                    *totals.entry(what).or_default() += times;
                }
                if !ran.violations.is_empty() {
                    eprintln!("seed {seed} breaks: {}", ran.violations.join("; "));
                    failed.push(self.report(seed, &ran));
                    stop.store(!all, Ordering::SeqCst);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        let (totals, failed) = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        eprintln!("{:.1} seeds a second", totals["seeds"] as f64 / began.elapsed().as_secs_f64());
        for (what, times) in &totals {
            eprintln!("{times:>9} {what}");
        }
        assert!(failed.is_empty(), "{} seeds failed\n{}", failed.len(), failed[0]);
    }

    /// What was mended once stays mended.
    ///
    /// # Panics
    /// When such a seed breaks something again.
    pub fn every_seed_that_ever_failed_holds(&self) {
        for seed in self.failed.lines().filter_map(|line| line.split('#').next()?.trim().parse().ok()) {
            self.holds(seed, &(self.run)(seed, None));
        }
    }

    /// The first seeds give the same trace twice.
    ///
    /// # Panics
    /// When one does not, with the line, or when all of them have hardly a line.
    pub fn is_repeated_exactly(&self, seeds: u64, least_lines: usize) {
        let mut lines = 0;
        for seed in 1..=seeds {
            let (once, again) = ((self.run)(seed, None).trace, (self.run)(seed, None).trace);
            lines += once.len();
            if let Some(line) = once.iter().zip(&again).position(|(one, other)| one != other) {
                let before = once[line.saturating_sub(10)..=line].join("\n");
                panic!("seed {seed} differs at line {line}:\n{before}\n--\n{}", again[line]);
            }
            assert_eq!(once.len(), again.len(), "seed {seed}");
        }
        assert!(lines > least_lines, "{lines} lines are no proof");
    }

    /// A bug that is switched on is found within so many seeds, and by the invariant that it breaks.
    ///
    /// # Panics
    /// When it is not, or by another.
    pub fn finds(&self, mutant: M, within: u64, says: &[&str]) {
        for seed in 1..=within {
            let ran = (self.run)(seed, Some(mutant));
            if let Some(first) = ran.violations.first() {
                eprintln!("{mutant:?}: found by seed {seed}: {first}");
                let fits = |found: &String| says.iter().any(|says| found.contains(says));
                assert!(ran.violations.iter().any(fits), "{}", self.report(seed, &ran));
                return;
            }
        }
        panic!("{mutant:?} is not found within {within} seeds");
    }

    fn holds(&self, seed: u64, ran: &Ran) {
        assert!(ran.violations.is_empty(), "{}", self.report(seed, ran));
    }

    /// A seed that broke something: what, the end of its trace, and how to see it again.
    fn report(&self, seed: u64, ran: &Ran) -> String {
        let (name, variable) = (self.name, self.variable("SEED"));
        let tail = ran.trace.len().saturating_sub(120);
        format!(
            "seed {seed} breaks: {}\n{}\n{}\nagain: {variable}={seed} cargo nextest run --workspace -E 'binary({name}) and test(one_seed)' --no-capture",
            ran.violations.join("; "),
            ran.trace[tail..].join("\n"),
            "-".repeat(80),
        )
    }

    fn number(&self, what: &str) -> Option<u64> {
        let variable = self.variable(what);
        let text = std::env::var(&variable).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text}; write a number")))
    }

    fn variable(&self, what: &str) -> String {
        format!("VIGIE_{}_{what}", self.name.to_uppercase())
    }
}

//! [`Watch`]: tells the observers of one call, if there are any.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Uri};
use tokio::time::Instant;

use super::{CallEvent, Ending, Observe, ObserveCall};

/// The observers of a call. Without any, nothing is kept and no clock is read.
#[derive(Default)]
pub(crate) struct Watch(Option<Box<Watchers>>);

struct Watchers {
    observers: Vec<Box<dyn ObserveCall>>,
    started: Instant,
    /// When the attempt under way was sent.
    sent: Option<Instant>,
    /// How long the last answered attempt took.
    took: Duration,
}

impl Watch {
    /// With observers. There is no need of it without.
    #[cold]
    pub(crate) fn begin(observers: &[Arc<dyn Observe>], method: &Method, uri: &Uri) -> Self {
        let observers = observers.iter().map(|observer| observer.call(method, uri)).collect();
        Self(Some(Box::new(Watchers {
            observers,
            started: Instant::now(),
            sent: None,
            took: Duration::ZERO,
        })))
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    #[inline]
    pub(crate) fn event<'e>(&mut self, event: impl FnOnce() -> CallEvent<'e>) {
        if self.0.is_some() {
            self.tell(event());
        }
    }

    #[cold]
    fn tell(&mut self, event: CallEvent<'_>) {
        // Taken out meanwhile: an observer that panics is not called again, least of all while the call unwinds.
        if let Some(mut watchers) = self.0.take() {
            watchers.event(event);
            self.0 = Some(watchers);
        }
    }

    #[inline]
    pub(crate) fn end(&mut self, ending: impl FnOnce() -> Ending) {
        if self.0.is_some() {
            self.tell_the_end(ending());
        }
    }

    #[cold]
    fn tell_the_end(&mut self, ending: Ending) {
        if let Some(mut watchers) = self.0.take() {
            let added = watchers.started.elapsed().saturating_sub(watchers.took);
            watchers.event(CallEvent::End { ending, added });
        }
    }

    /// Calls `inner` in the midst of all observers.
    pub(crate) fn enter<T>(&mut self, inner: impl FnOnce() -> T) -> T {
        let Some(mut watchers) = self.0.take() else { return inner() };
        let (mut inner, mut result) = (Some(inner), None);
        enter_all(&mut watchers.observers, &mut || {
            if let Some(inner) = inner.take() {
                result = Some(inner());
            }
        });
        self.0 = Some(watchers);
        // An observer that has not called it does not stop the call.
        result.unwrap_or_else(|| inner.take().expect("it is taken only where a result is left")())
    }
}

impl Watchers {
    fn event(&mut self, event: CallEvent<'_>) {
        match event {
            CallEvent::Attempt { .. } => self.sent = Some(Instant::now()),
            CallEvent::Answered { .. } => {
                self.took = self.sent.take().map_or(Duration::ZERO, |sent| sent.elapsed());
            }
            _ => {}
        }
        self.observers.iter_mut().for_each(|observer| observer.event(&event));
    }
}

fn enter_all(observers: &mut [Box<dyn ObserveCall>], inner: &mut dyn FnMut()) {
    match observers {
        [] => inner(),
        [first, rest @ ..] => first.enter(&mut || enter_all(rest, inner)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Forgetful;

    impl Observe for Forgetful {
        fn call(&self, _: &Method, _: &Uri) -> Box<dyn ObserveCall> {
            Box::new(Self)
        }
    }

    impl ObserveCall for Forgetful {
        fn event(&mut self, _: &CallEvent<'_>) {}
        fn enter(&mut self, _: &mut dyn FnMut()) {}
    }

    struct Twice;

    impl Observe for Twice {
        fn call(&self, _: &Method, _: &Uri) -> Box<dyn ObserveCall> {
            Box::new(Self)
        }
    }

    impl ObserveCall for Twice {
        fn event(&mut self, _: &CallEvent<'_>) {}
        fn enter(&mut self, inner: &mut dyn FnMut()) {
            inner();
            inner();
        }
    }

    struct Panics;

    impl Observe for Panics {
        fn call(&self, _: &Method, _: &Uri) -> Box<dyn ObserveCall> {
            Box::new(Self)
        }
    }

    impl ObserveCall for Panics {
        fn event(&mut self, _: &CallEvent<'_>) {
            panic!("of the observer's making");
        }
    }

    #[test]
    fn an_observer_that_panics_is_not_told_of_the_end_while_the_call_unwinds() {
        struct Call(Watch);
        impl Drop for Call {
            fn drop(&mut self) {
                // A second panic here would end the process.
                self.0.end(|| Ending::Abandoned);
            }
        }
        let observers = [Arc::new(Panics) as Arc<dyn Observe>];
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut call = Call(Watch::begin(&observers, &Method::GET, &Uri::default()));
            call.0.event(|| CallEvent::Failed { slot: crate::Slot::Primary });
        }));
        assert!(unwound.is_err());
    }

    #[test]
    fn the_inner_service_is_polled_once_whatever_the_observers_do() {
        for observers in
            [vec![], vec![Arc::new(Forgetful) as Arc<dyn Observe>], vec![Arc::new(Twice) as _; 3]]
        {
            let mut watch = Watch::begin(&observers, &Method::GET, &Uri::default());
            let mut calls = 0;
            assert_eq!(
                watch.enter(|| {
                    calls += 1;
                    calls
                }),
                1
            );
            assert_eq!(calls, 1);
        }
    }
}

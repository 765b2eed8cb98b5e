//! [`Watch`]: tells the observers of one call, if there are any.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
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
    /// Whether the call is being dropped, so that a panic of an observer stops here. The panic hook hears it.
    swallows_panics: bool,
}

impl Watch {
    /// A call begins. There is no need of this without observers.
    #[cold]
    pub(crate) fn begin(&mut self, observers: &[Arc<dyn Observe>], method: &Method, uri: &Uri) {
        let watchers = self.0.insert(Box::new(Watchers {
            observers: Vec::with_capacity(observers.len()),
            started: Instant::now(),
            sent: None,
            took: Duration::ZERO,
            swallows_panics: false,
        }));
        for observer in observers {
            // Each is known as soon as it has begun: if the next one panics, this one is told the end.
            watchers.observers.push(observer.call(method, uri));
        }
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
        if let Some(watchers) = &mut self.0 {
            watchers.event(event);
        }
    }

    /// The call is being dropped: from now on, no panic of an observer goes through.
    pub(crate) fn swallow_panics(&mut self) {
        if let Some(watchers) = &mut self.0 {
            watchers.swallows_panics = true;
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

    /// Runs `inner` inside every observer's `enter` hook.
    pub(crate) fn enter<T>(&mut self, inner: impl FnOnce() -> T) -> T {
        let Some(watchers) = &mut self.0 else { return inner() };
        let (mut inner, mut result) = (Some(inner), None);
        enter_all(&mut watchers.observers, &mut || {
            if let Some(inner) = inner.take() {
                result = Some(inner());
            }
        });
        // An observer that has not called it does not stop the call.
        result.unwrap_or_else(|| inner.take().expect("it is taken only where a result is left")())
    }
}

impl Watchers {
    /// Tells all of them, whichever panics; then the first panic goes on, unless the call is being dropped.
    fn event(&mut self, event: CallEvent<'_>) {
        match event {
            CallEvent::Attempt { .. } => self.sent = Some(Instant::now()),
            CallEvent::Answered { .. } => {
                self.took = self.sent.take().map_or(Duration::ZERO, |sent| sent.elapsed());
            }
            _ => {}
        }
        let mut panicked = None;
        for observer in &mut self.observers {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| observer.event(&event))) {
                panicked.get_or_insert(panic);
            }
        }
        if let Some(panic) = panicked.filter(|_| !self.swallows_panics) {
            resume_unwind(panic);
        }
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
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// Panics whenever it is told something; counts how often it was told the end.
    #[derive(Clone, Default)]
    struct Panics(Arc<AtomicUsize>);

    impl Observe for Panics {
        fn call(&self, _: &Method, _: &Uri) -> Box<dyn ObserveCall> {
            Box::new(self.clone())
        }
    }

    impl ObserveCall for Panics {
        fn event(&mut self, event: &CallEvent<'_>) {
            self.0.fetch_add(usize::from(matches!(event, CallEvent::End { .. })), Ordering::Relaxed);
            panic!("of the observer's making");
        }
    }

    #[test]
    fn each_observer_is_told_the_end_whichever_of_them_panics() {
        struct Call(Watch);
        impl Drop for Call {
            fn drop(&mut self) {
                // A panic that leaves this would end the process.
                self.0.swallow_panics();
                self.0.end(|| Ending::Failed);
            }
        }
        let panics = Panics::default();
        let observers = [panics.clone(), panics.clone()].map(|panics| Arc::new(panics) as Arc<dyn Observe>);
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let mut call = Call(Watch::default());
            call.0.begin(&observers, &Method::GET, &Uri::default());
            call.0.event(|| CallEvent::Failed { slot: crate::Slot::Primary });
        }));
        assert!(unwound.is_err());
        assert_eq!(panics.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_inner_service_is_polled_once_whatever_the_observers_do() {
        for observers in
            [vec![], vec![Arc::new(Forgetful) as Arc<dyn Observe>], vec![Arc::new(Twice) as _; 3]]
        {
            let mut watch = Watch::default();
            watch.begin(&observers, &Method::GET, &Uri::default());
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

//! [`ResourceKey`]: what a request is about.

use std::sync::Arc;

use http::request;

/// Names the resource that a request is about, so that the layer can remember which credential serves it.
///
/// Resources that move together should share a name; resources that move apart should not. Names are
/// compared within one origin.
///
/// Closures are resource keys too:
///
/// ```
/// use http::request::Parts;
/// use tower_credential_fallback::ResourceKey;
///
/// fn tenant<'r>(head: &'r Parts, _body: &'r [u8]) -> Option<&'r str> {
///     head.headers.get("x-tenant")?.to_str().ok()
/// }
/// fn assert_key(_: impl ResourceKey) {}
/// assert_key(tenant);
/// ```
pub trait ResourceKey: Send + Sync {
    /// The resource's name; `None` if the request is about no single resource, such as a list or an upload.
    /// Then nothing is remembered, and the primary goes first, until the fallback serves most of the resources that this
    /// layer has seen, four at the least.
    ///
    /// `body` is the request's body if it is wholly in memory, and empty otherwise. It may be large:
    /// search it, rather than parse it.
    fn resource<'r>(&self, head: &'r request::Parts, body: &'r [u8]) -> Option<&'r str>;
}

impl<F> ResourceKey for F
where
    F: for<'r> Fn(&'r request::Parts, &'r [u8]) -> Option<&'r str> + Send + Sync,
{
    fn resource<'r>(&self, head: &'r request::Parts, body: &'r [u8]) -> Option<&'r str> {
        self(head, body)
    }
}

impl ResourceKey for Arc<dyn ResourceKey> {
    fn resource<'r>(&self, head: &'r request::Parts, body: &'r [u8]) -> Option<&'r str> {
        (**self).resource(head, body)
    }
}

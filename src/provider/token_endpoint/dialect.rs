//! How identity servers differ: [`RequestStyle`] and [`ExpiresIn`].

/// How a token is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestStyle {
    /// A form body with all of it ([RFC 6749, 4](https://www.rfc-editor.org/rfc/rfc6749#section-4); for assertions
    /// [RFC 7523, 2.1](https://www.rfc-editor.org/rfc/rfc7523#section-2.1)). The default.
    #[default]
    Form,
    /// What proves who asks (the assertion, the client's secret) as `Authorization: Bearer`, and a JSON body with the
    /// rest.
    BearerJson,
}

/// What the answer's `expires_in` means. It is never guessed from the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExpiresIn {
    /// Seconds from now ([RFC 6749, 5.1](https://www.rfc-editor.org/rfc/rfc6749#section-5.1)). The default.
    #[default]
    Relative,
    /// A Unix time in seconds, by the server's clock.
    Absolute,
    /// Nothing: it is not looked at, and the token is kept until it is refused.
    Ignored,
}

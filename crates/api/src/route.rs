//! One route of an API: who answers it, and what the document says of it. Both come from here, so that neither
//! can lack a route that the other has.

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{MethodFilter, MethodRouter},
};
use http::{StatusCode, Uri};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::{admin::Admin, error::Failure};

/// One method of one path. `S` is what its handler works on.
pub(crate) struct Route<S = Admin> {
    pub(crate) method: Method,
    /// With the names of its parameters in braces.
    pub(crate) path: &'static str,
    /// Makes what answers it.
    pub(crate) handler: fn(MethodFilter) -> MethodRouter<S>,
    /// What it does, without a full stop.
    pub(crate) summary: &'static str,
    /// What else there is to say, or nothing.
    pub(crate) description: &'static str,
    pub(crate) parameters: &'static [Parameter],
    pub(crate) body: Option<Content>,
    /// What comes back. The first is the success.
    pub(crate) answers: &'static [Answer],
}

/// What the handlers of an API work on.
pub(crate) trait Served: Clone + Send + Sync + 'static {
    /// Where its routes are described.
    const DOCUMENT: &'static str;
    /// Bytes of a request's body, if a route does not take more.
    const BODY_BYTES_MAX: usize;
}

/// Makes the router of these routes. What is none of them is answered with those that there are.
pub(crate) fn routed<S: Served>(routes: &'static [Route<S>]) -> Router<S> {
    let router = routes.iter().fold(Router::new(), |router, route| {
        router.route(route.path, (route.handler)(route.method.filter()))
    });
    router
        .fallback(async |uri: Uri| {
            let known = routes.iter().map(|route| format!("{} {}", route.method.word(), route.path));
            let known: Vec<String> = known.collect();
            Failure::new(StatusCode::NOT_FOUND, format!("there is no {}", uri.path()))
                .help(format!("there are {}", known.join(", ")))
        })
        .method_not_allowed_fallback(async |method: http::Method, uri: Uri| {
            let error = format!("{method} is not a method of {}", uri.path());
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, error).help(format!("see GET {}", S::DOCUMENT))
        })
        .layer(DefaultBodyLimit::max(S::BODY_BYTES_MAX))
}

/// The methods that there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Method {
    Get,
    Put,
    Post,
    Delete,
}

impl Method {
    /// As it stands in a request.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    pub(crate) const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Put => MethodFilter::PUT,
            Self::Post => MethodFilter::POST,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// Describes a type, or leads to where it is described.
pub(crate) type Described = fn(&mut SchemaGenerator) -> Schema;

/// What a request says besides its body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parameter {
    /// A part of the path.
    Path { name: &'static str, description: &'static str, schema: Described },
    /// A header field.
    Header { name: &'static str, description: &'static str },
    /// All members of the type that the query is read as.
    Query {
        schema: Described,
        /// Members that mean nothing to this route.
        without: &'static [&'static str],
    },
}

impl Parameter {
    pub(crate) const fn query<T: JsonSchema>(without: &'static [&'static str]) -> Self {
        Self::Query { schema: T::json_schema, without }
    }
}

/// What a body holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    Json(Described),
    /// A whole configuration.
    Toml,
    /// None, or what HTTP does not describe.
    None,
}

impl Content {
    pub(crate) const fn json<T: JsonSchema>() -> Self {
        Self::Json(SchemaGenerator::subschema_for::<T>)
    }
}

/// What can come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) description: &'static str,
    pub(crate) content: Content,
    /// Whether `ETag` says which revision it is about.
    pub(crate) is_tagged: bool,
}

impl Answer {
    pub(crate) const fn json<T: JsonSchema>(description: &'static str) -> Self {
        Self::ok(description, Content::json::<T>())
    }

    pub(crate) const fn ok(description: &'static str, content: Content) -> Self {
        Self { status: 200, description, content, is_tagged: false }
    }

    pub(crate) const fn tagged(self) -> Self {
        Self { is_tagged: true, ..self }
    }

    pub(crate) const fn failure(status: u16, description: &'static str) -> Self {
        Self { status, description, content: Content::json::<Failure>(), is_tagged: false }
    }
}

//! Every route of the process API, in one table: `process.rs` serves it, and the document is made of it.

use axum::{Json, routing::on};
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::{Health, List, ProcessApi, SignalOrder, Waiting, order::Order, run::RunView};
use crate::{
    openapi::made_of,
    route::{Answer, Content, Method, Parameter, Route},
};

const ID: Parameter = Parameter::Path {
    name: "id",
    description: "The id of a run.",
    schema: SchemaGenerator::subschema_for::<String>,
};

const MISUNDERSTOOD: Answer = Answer::failure(400, "The request is not understood.");
const UNKNOWN: Answer = Answer::failure(404, "No run has this id, or it is forgotten.");

pub(crate) const ROUTES: [Route<ProcessApi>; 8] = [
    Route {
        method: Method::Get,
        path: "/openapi.json",
        handler: |method| on(method, async || Json(document())),
        summary: "This document",
        description: "As docs/process-api.json has it, of the version that runs.",
        parameters: &[],
        body: None,
        answers: &[Answer::ok("OpenAPI 3.1.", Content::json::<Map<String, Value>>())],
    },
    Route {
        method: Method::Get,
        path: "/health",
        handler: |method| on(method, super::health),
        summary: "Whether it takes new work, and how much there is",
        description: "",
        parameters: &[],
        body: None,
        answers: &[Answer::json::<Health>("It does.")],
    },
    Route {
        method: Method::Post,
        path: "/execute",
        handler: |method| on(method, super::execute),
        summary: "Run a command, confined, and say how it ended",
        description: "The answer comes when it has ended, or with `detach` as soon as it runs. Without `detach` it ends when its caller goes.",
        parameters: &[],
        body: Some(Content::json::<Order>()),
        answers: &[
            Answer::json::<RunView>("It has ended."),
            Answer { status: 202, ..Answer::json::<RunView>("It runs (`detach`).") },
            MISUNDERSTOOD,
            Answer::failure(413, "The body has more than 1 MiB."),
            Answer::failure(
                422,
                "It cannot be run as asked: there is no such program, the policy has errors (`problems`), the token does not count, or it asks for more than it may have.",
            ),
            Answer::failure(429, "As many commands run as may."),
            Answer::failure(500, "It could not be confined, and so was not run."),
            Answer::failure(503, "The server is ending."),
        ],
    },
    Route {
        method: Method::Get,
        path: "/execute",
        handler: |method| on(method, super::socket::attach),
        summary: "Run a command, confined, over a WebSocket",
        description: "The first message is what `POST /execute` takes, in text, without `detach`. Then binary messages carry streams: their first byte is 0 for standard input, 1 for standard output, 2 for standard error. A caller may send `{\"signal\":\"TERM\"}` and `{\"end_of_input\":true}` in text, and is sent `{\"started\":Run}` and `{\"ended\":Run}`, or `{\"refused\":Failure}`. The command ends when the connection does.",
        parameters: &[],
        body: None,
        answers: &[
            Answer {
                status: 101,
                description: "It is one from here on.",
                content: Content::None,
                is_tagged: false,
            },
            Answer::failure(400, "It is not asked for a WebSocket (RFC 6455)."),
            Answer::failure(426, "Likewise, or the version is another one than 13."),
            Answer::failure(429, "As many commands run as may."),
            Answer::failure(503, "The server is ending."),
        ],
    },
    Route {
        method: Method::Get,
        path: "/runs",
        handler: |method| on(method, super::list),
        summary: "Every run that is known",
        description: "Those that run, and the last hundred that have ended, or fewer if they wrote much.",
        parameters: &[],
        body: None,
        answers: &[Answer::json::<List>("The newest first.")],
    },
    Route {
        method: Method::Get,
        path: "/runs/{id}",
        handler: |method| on(method, super::one),
        summary: "One run, with what it has written so far",
        description: "",
        parameters: &[ID],
        body: None,
        answers: &[Answer::json::<RunView>("The run."), UNKNOWN],
    },
    Route {
        method: Method::Get,
        path: "/runs/{id}/wait",
        handler: |method| on(method, super::wait),
        summary: "One run, as soon as it has ended",
        description: "Or when the time is over: `state` says which.",
        parameters: &[ID, Parameter::query::<Waiting>(&[])],
        body: None,
        answers: &[Answer::json::<RunView>("The run."), MISUNDERSTOOD, UNKNOWN],
    },
    Route {
        method: Method::Post,
        path: "/runs/{id}/signal",
        handler: |method| on(method, super::signal),
        summary: "Send a command a signal",
        description: "KILL ends it, and with it all that it has started.",
        parameters: &[ID],
        body: Some(Content::json::<SignalOrder>()),
        answers: &[
            Answer::json::<RunView>("It was sent."),
            MISUNDERSTOOD,
            UNKNOWN,
            Answer::failure(409, "The run has ended."),
        ],
    },
];

/// Returns the document, in OpenAPI 3.1.
pub(crate) fn document() -> Value {
    let description = "Served by `exeat sandbox serve`. Every request needs `Authorization: Bearer SECRET`, and is otherwise \
        answered with 401; one with an `Origin` that is not allowed with 403, and one for another host with 421. Every \
        failure is a JSON object with `error` and mostly `help`.";
    let server = json!({ "url": "http://127.0.0.1:8080/", "description": "The default of `--addr`." });
    let mut document = made_of(&ROUTES, "Exeat process API", description, server);
    if let Some(members) = document.as_object_mut() {
        members.insert("security".to_owned(), json!([{ "secret": [] }]));
    }
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        let scheme = json!({ "secret": { "type": "http", "scheme": "bearer" } });
        components.insert("securitySchemes".to_owned(), scheme);
    }
    document
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_published_document_is_the_one_that_is_made() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/process-api.json");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, format!("{:#}\n", document())).unwrap();
        }
        let published: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert!(
            published == document(),
            "docs/process-api.json is not what crates/api says; if it should be: UPDATE_DOCS=1 cargo nextest run -p exeat-api"
        );
    }

    #[test]
    fn everything_is_described() {
        let document = document();
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            for (member, schema) in schema["properties"].as_object().into_iter().flatten() {
                let is_described = schema["description"].is_string() || schema["$ref"].is_string();
                assert!(is_described, "{name}.{member}");
            }
        }
        assert!(document["paths"]["/execute"]["post"]["requestBody"].is_object());
    }
}

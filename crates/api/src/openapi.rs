//! The OpenAPI document: made from the table of routes and from the types that are sent and answered. `docs/openapi.json`
//! is a copy of it, which a test compares.

use axum::Json;
use schemars::{SchemaGenerator, generate::SchemaSettings, transform::transform_subschemas};
use serde_json::{Map, Value, json};

use crate::{
    document::DOCUMENT_BYTES_MAX,
    route::{Answer, Content, Parameter, Route},
    routes::ROUTES,
};

const DEFINITIONS: &str = "/components/schemas";

/// `GET /v1/openapi.json`.
pub(crate) async fn get() -> Json<Value> {
    Json(document())
}

/// Returns the document, in OpenAPI 3.1.
pub(crate) fn document() -> Value {
    let description = "Served on the unix socket that `[api] socket` names, to the user that the proxy runs as. \
        Every failure is a JSON object with `error` and mostly `help`. A request that takes longer than 60 s is \
        answered with 504.";
    let server = json!({ "url": "http://exeat/", "description": "The name is not looked at." });
    made_of(&ROUTES, "Exeat admin API", description, server)
}

/// Returns the document of an API with these routes.
pub(crate) fn made_of<S>(routes: &[Route<S>], title: &str, description: &str, server: Value) -> Value {
    let settings = || {
        SchemaSettings::draft2020_12()
            .with(|settings| {
                settings.definitions_path = DEFINITIONS.into();
                settings.meta_schema = None;
            })
            .with_transform(tidy)
    };
    let mut making =
        Making { sent: settings().for_deserialize().into(), answered: settings().for_serialize().into() };
    let mut paths = Map::new();
    for route in routes {
        let operation = making.operation(route);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.word().to_ascii_lowercase(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
            "description": description,
        },
        "servers": [server],
        "paths": paths,
        "components": { "schemas": making.definitions() },
    })
}

/// A document that is being made.
struct Making {
    /// Describes what is sent to the proxy.
    sent: SchemaGenerator,
    /// Describes what it answers.
    answered: SchemaGenerator,
}

impl Making {
    fn operation<S>(&mut self, route: &Route<S>) -> Value {
        let mut operation = Map::new();
        operation.insert("operationId".to_owned(), operation_id(route).into());
        operation.insert("summary".to_owned(), route.summary.into());
        if !route.description.is_empty() {
            operation.insert("description".to_owned(), route.description.into());
        }
        let parameters = route.parameters.iter().flat_map(|parameter| self.parameters(parameter));
        let parameters: Vec<Value> = parameters.collect();
        if !parameters.is_empty() {
            operation.insert("parameters".to_owned(), parameters.into());
        }
        if let Some(body) = route.body {
            let content = content(body, &mut self.sent);
            operation.insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
        }
        let answers = route.answers.iter();
        let answers: Map<String, Value> =
            answers.map(|answer| (answer.status.to_string(), self.answer(answer))).collect();
        operation.insert("responses".to_owned(), answers.into());
        operation.into()
    }

    fn parameters(&mut self, parameter: &Parameter) -> Vec<Value> {
        match *parameter {
            Parameter::Path { name, description, schema } => {
                let schema = schema(&mut self.sent);
                vec![
                    json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema }),
                ]
            }
            Parameter::Header { name, description } => {
                vec![
                    json!({ "name": name, "in": "header", "description": description, "schema": { "type": "string" } }),
                ]
            }
            Parameter::Query { schema, without } => {
                let mut schema = schema(&mut self.sent);
                tidy(&mut schema);
                let required = names(schema.get("required"));
                let properties = schema.get("properties").and_then(Value::as_object).cloned();
                let meant =
                    properties.into_iter().flatten().filter(|(name, _)| !without.contains(&name.as_str()));
                meant
                    .map(|(name, mut schema)| {
                        let description =
                            schema.as_object_mut().and_then(|schema| schema.remove("description"));
                        let is_required = required.contains(&name);
                        json!({
                            "name": name, "in": "query", "required": is_required, "description": description,
                            "schema": schema,
                        })
                    })
                    .collect()
            }
        }
    }

    fn answer(&mut self, answer: &Answer) -> Value {
        let content = content(answer.content, &mut self.answered);
        let mut value = json!({ "description": answer.description, "content": content });
        if let Some(members) = value.as_object_mut().filter(|_| answer.is_tagged) {
            let tag = json!({
                "description": "The revision, as an entity tag for `If-Match`.",
                "schema": { "type": "string" },
                "example": "\"12\"",
            });
            members.insert("headers".to_owned(), json!({ "ETag": tag }));
        }
        value
    }

    /// What the references lead to. A type that is both sent and answered is described as it may be sent: that is
    /// narrower.
    fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.answered.take_definitions(true);
        all.extend(self.sent.take_definitions(true));
        all
    }
}

/// A name for programs that make clients of the document: `get_policy_diff`.
fn operation_id<S>(route: &Route<S>) -> String {
    let parts = route.path.split('/').filter(|part| !part.is_empty() && *part != "v1");
    let parts = parts.map(|part| match part.strip_prefix('{') {
        Some(name) => format!("by_{}", name.trim_end_matches('}')),
        None => part.replace('.', "_"),
    });
    let parts: Vec<String> = parts.collect();
    format!("{}_{}", route.method.word().to_ascii_lowercase(), parts.join("_"))
}

fn content(content: Content, generator: &mut SchemaGenerator) -> Value {
    match content {
        Content::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Content::Toml => {
            json!({ "application/toml": { "schema": { "type": "string", "maxLength": DOCUMENT_BYTES_MAX } } })
        }
        Content::None => json!({}),
    }
}

/// Makes of a schema what the answers are: a member that may be missing is never null, and the lines of a comment are
/// one text.
fn tidy(schema: &mut schemars::Schema) {
    transform_subschemas(&mut tidy, schema);
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    let required = names(schema.get("required"));
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (_, property) in properties.iter_mut().filter(|(name, _)| !required.contains(*name)) {
        without_null(property);
    }
}

fn without_null(schema: &mut Value) {
    let Some(members) = schema.as_object_mut() else { return };
    if let Some(Value::Array(kinds)) = members.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [kind] = kinds.as_slice() {
            let kind = kind.clone();
            members.insert("type".to_owned(), kind);
        }
    }
    if let Some(Value::Array(choices)) = members.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(choice)] = choices.as_slice() {
            let choice = choice.clone();
            members.remove("anyOf");
            members.extend(choice);
        }
    }
}

fn names(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn the_published_document_is_the_one_that_is_made() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, format!("{:#}\n", document())).unwrap();
        }
        let published: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert!(
            published == document(),
            "docs/openapi.json is not what crates/api says; if it should be: UPDATE_DOCS=1 cargo nextest run -p exeat-api"
        );
    }

    #[test]
    fn operations_are_told_apart_and_their_parameters_named() {
        let ids: BTreeSet<String> = ROUTES.iter().map(operation_id).collect();
        assert_eq!(ids.len(), ROUTES.len());
        let each: BTreeSet<_> = ROUTES.iter().map(|route| (route.method.word(), route.path)).collect();
        assert_eq!(each.len(), ROUTES.len());
        for Route { path, parameters, answers, .. } in &ROUTES {
            let in_path = path.split(['{', '}']).skip(1).step_by(2);
            let described = parameters.iter().filter_map(|parameter| match parameter {
                Parameter::Path { name, .. } => Some(*name),
                Parameter::Header { .. } | Parameter::Query { .. } => None,
            });
            assert!(in_path.eq(described), "{path}");
            let mut codes: Vec<_> = answers.iter().map(|answer| answer.status).collect();
            assert_eq!(codes.first(), Some(&200), "{path}");
            codes.dedup();
            assert!(codes.is_sorted() && codes.len() == answers.len(), "{path}: {codes:?}");
        }
    }

    #[test]
    fn everything_is_described_and_references_lead_somewhere() {
        fn check(document: &Value, value: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                        let pointer = reference.trim_start_matches('#');
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    members.values().for_each(|value| check(document, value));
                }
                Value::Array(values) => values.iter().for_each(|value| check(document, value)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let document = document();
        check(&document, &document);
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            assert!(schema["description"].is_string(), "{name}");
            for (member, schema) in schema["properties"].as_object().into_iter().flatten() {
                assert!(schema["description"].is_string(), "{name}.{member}");
            }
        }
    }

    #[test]
    fn members_that_may_be_missing_are_not_null() {
        for (case, mut schema, want) in [
            ("plain", json!({ "type": ["string", "null"] }), json!({ "type": "string" })),
            (
                "reference",
                json!({ "anyOf": [{ "$ref": "#/a" }, { "type": "null" }] }),
                json!({ "$ref": "#/a" }),
            ),
            ("not null anyway", json!({ "type": "string" }), json!({ "type": "string" })),
        ] {
            without_null(&mut schema);
            assert_eq!(schema, want, "{case}");
        }
    }
}

//! Every route of the admin API, in one table: `admin.rs` serves it and `openapi.rs` describes it.

use axum::{extract::DefaultBodyLimit, routing::on};
use schemars::SchemaGenerator;

use crate::{
    diff,
    document::DOCUMENT_BYTES_MAX,
    explain, firewall, flows, health, openapi, orders, policy, put, quarantine, reload, revisions,
    revocations,
    route::{Answer, Content, Method, Parameter, Route},
    tokens, traffic,
};

/// The bound of a body that is a configuration.
fn whole_document() -> DefaultBodyLimit {
    DefaultBodyLimit::max(DOCUMENT_BYTES_MAX)
}

const IF_MATCH: Parameter = Parameter::Header {
    name: "If-Match",
    description: "Only if this revision still decides: its number, as in `ETag`. Several are separated by commas; `*` is any.",
};

const MISUNDERSTOOD: Answer = Answer::failure(400, "The request is not understood.");
const BODY_TOO_LARGE: Answer = Answer::failure(413, "The body has more than 64 KiB.");
const TOO_LARGE: Answer = Answer::failure(413, "The document is larger than a configuration may be.");
const ENDING: Answer = Answer::failure(503, "The proxy is ending.");
const EDITED: Answer = Answer::failure(
    409,
    "The configuration file was edited since it was loaded, cannot be replaced, or is no file.",
);
const MOVED: Answer = Answer::failure(412, "Another revision decides than `If-Match` names.");

pub(crate) const ROUTES: [Route; 23] = [
    Route {
        method: Method::Get,
        path: "/v1/openapi.json",
        handler: |method| on(method, openapi::get),
        summary: "This document",
        description: "As docs/openapi.json has it, of the version that runs.",
        parameters: &[],
        body: None,
        answers: &[Answer::ok("OpenAPI 3.1.", Content::json::<serde_json::Map<String, serde_json::Value>>())],
    },
    Route {
        method: Method::Get,
        path: "/v1/health",
        handler: |method| on(method, health::get),
        summary: "Whether it takes new work",
        description: "",
        parameters: &[],
        body: None,
        answers: &[
            Answer::json::<health::Health>("It does."),
            Answer::failure(
                503,
                "It does not: it drains, or `audit.required` is set and the audit log cannot be written. `error` says which.",
            ),
        ],
    },
    Route {
        method: Method::Get,
        path: "/v1/policy",
        handler: |method| on(method, policy::get),
        summary: "What decides at present",
        description: "",
        parameters: &[],
        body: None,
        answers: &[Answer::json::<policy::Policy>("The policy in use.").tagged()],
    },
    Route {
        method: Method::Put,
        path: "/v1/policy",
        handler: |method| on(method, put::put).layer(whole_document()),
        summary: "Let a document take the place of the configuration file, and decide from now on",
        description: "It is checked as the file would be, then it is in the file, then it decides. All of it takes effect or nothing; what is bound and opened at the start takes effect at a restart.",
        parameters: &[Parameter::query::<put::How>(&[]), IF_MATCH],
        body: Some(Content::Toml),
        answers: &[
            Answer::json::<orders::Answer>("It decides; of a dry run: it could.").tagged(),
            Answer::failure(400, "The request is not understood, or the document is not UTF-8 text."),
            EDITED,
            MOVED,
            TOO_LARGE,
            Answer::failure(422, "The document has errors; the policy in use stays. `problems` says which."),
            ENDING,
        ],
    },
    Route {
        method: Method::Get,
        path: "/v1/policy/revisions",
        handler: |method| on(method, revisions::list),
        summary: "The documents that decide and have decided, the newest first",
        description: "",
        parameters: &[],
        body: None,
        answers: &[Answer::json::<revisions::Revisions>("As many as are kept: 100, and 64 MiB.")],
    },
    Route {
        method: Method::Get,
        path: "/v1/policy/revisions/{revision}",
        handler: |method| on(method, revisions::one),
        summary: "The document of a revision, byte for byte",
        description: "",
        parameters: &[Parameter::Path {
            name: "revision",
            description: "Its number, or `current` for the one that decides.",
            schema: SchemaGenerator::subschema_for::<String>,
        }],
        body: None,
        answers: &[
            Answer::ok("The document. It holds the password hashes of clients.", Content::Toml).tagged(),
            Answer::failure(400, "That is no number."),
            Answer::failure(404, "That revision is not kept."),
        ],
    },
    Route {
        method: Method::Get,
        path: "/v1/policy/diff",
        handler: |method| on(method, diff::between),
        summary: "What two revisions allow differently, client by client",
        description: "Files that the documents name are read as they are now.",
        parameters: &[Parameter::query::<diff::Which>(&[])],
        body: None,
        answers: &[
            Answer::json::<diff::Answer>("The differences."),
            MISUNDERSTOOD,
            Answer::failure(404, "A revision is not kept."),
            Answer::failure(422, "A document has errors by now. `problems` says which."),
        ],
    },
    Route {
        method: Method::Post,
        path: "/v1/policy/diff",
        handler: |method| on(method, diff::sent).layer(whole_document()),
        summary: "What a document would allow differently from the one that decides",
        description: "",
        parameters: &[],
        body: Some(Content::Toml),
        answers: &[
            Answer::json::<diff::Answer>(
                "The differences. Places in the document that was sent begin with `sent:`.",
            ),
            Answer::failure(400, "The document is not UTF-8 text."),
            TOO_LARGE,
            Answer::failure(422, "The document has errors. `problems` says which."),
        ],
    },
    Route {
        method: Method::Post,
        path: "/v1/policy/rollback",
        handler: |method| on(method, put::rollback),
        summary: "Let the document of an older revision decide again, as a new revision",
        description: "As if it were put. Files that it names are read as they are now.",
        parameters: &[Parameter::query::<put::How>(&[]), IF_MATCH],
        body: Some(Content::json::<put::Back>()),
        answers: &[
            Answer::json::<orders::Answer>("It decides; of a dry run: it could.").tagged(),
            MISUNDERSTOOD,
            Answer::failure(404, "That revision is not kept."),
            EDITED,
            MOVED,
            BODY_TOO_LARGE,
            Answer::failure(
                422,
                "The document has errors by now; the policy in use stays. `problems` says which.",
            ),
            ENDING,
        ],
    },
    Route {
        method: Method::Post,
        path: "/v1/reload",
        handler: |method| on(method, reload::post),
        summary: "Read the configuration again, as on SIGHUP",
        description: "",
        parameters: &[],
        body: None,
        answers: &[
            Answer::json::<orders::Answer>("It is in use."),
            Answer::failure(422, "It has errors; the policy in use stays. `problems` says which."),
            ENDING,
        ],
    },
    Route {
        method: Method::Post,
        path: "/v1/explain",
        handler: |method| on(method, explain::post),
        summary: "What would be decided on a request, stage by stage",
        description: "",
        parameters: &[],
        body: Some(Content::json::<explain::Question>()),
        answers: &[
            Answer::json::<explain::Answer>("The explanation."),
            Answer::failure(400, "The question cannot be understood."),
            Answer::failure(404, "There is no such client."),
            BODY_TOO_LARGE,
        ],
    },
    Route {
        method: Method::Get,
        path: "/v1/flows",
        handler: |method| on(method, flows::list),
        summary: "What is open",
        description: "",
        parameters: &[Parameter::query::<flows::Which>(&["all"])],
        body: None,
        answers: &[
            Answer::json::<flows::Found>("The flows."),
            Answer::failure(400, "The filter cannot be understood."),
        ],
    },
    Route {
        method: Method::Delete,
        path: "/v1/flows",
        handler: |method| on(method, flows::cut),
        summary: "End flows",
        description: "",
        parameters: &[Parameter::query::<flows::Which>(&["limit"])],
        body: None,
        answers: &[
            Answer::json::<flows::Cut>("They end within a second."),
            Answer::failure(400, "The filter cannot be understood, or is missing."),
        ],
    },
    Route {
        method: Method::Delete,
        path: "/v1/flows/{id}",
        handler: |method| on(method, flows::cut_one),
        summary: "End one flow",
        description: "",
        parameters: &[Parameter::Path {
            name: "id",
            description: "Its number.",
            schema: SchemaGenerator::subschema_for::<u64>,
        }],
        body: None,
        answers: &[
            Answer::json::<flows::Cut>("It ends within a second."),
            Answer::failure(400, "The id is no number."),
            Answer::failure(404, "There is no such flow."),
        ],
    },
    Route {
        method: Method::Get,
        path: "/v1/traffic",
        handler: |method| on(method, traffic::get),
        summary: "Who talks to what and what is refused, in numbers that only grow",
        description: "",
        parameters: &[Parameter::query::<traffic::HowMuch>(&[])],
        body: None,
        answers: &[
            Answer::json::<traffic::Traffic>(
                "The numbers. Asking makes the proxy add up what ends, for a minute from then on.",
            ),
            Answer::failure(400, "The limit is no number."),
        ],
    },
    Route {
        method: Method::Get,
        path: "/v1/firewall",
        handler: |method| on(method, firewall::get),
        summary: "What names have opened in the kernel, for whom and for how long",
        description: "",
        parameters: &[Parameter::query::<firewall::Which>(&[])],
        body: None,
        answers: &[
            Answer::json::<firewall::Opened>("What is open, or has been."),
            Answer::failure(400, "The address is none."),
            Answer::failure(404, "There is no firewall."),
            Answer::failure(500, "The kernel does not tell."),
        ],
    },
    Route {
        method: Method::Get,
        path: "/v1/quarantine",
        handler: |method| on(method, quarantine::list),
        summary: "Who may reach nothing",
        description: "",
        parameters: &[],
        body: None,
        answers: &[Answer::json::<quarantine::Quarantined>("Everyone in quarantine.")],
    },
    Route {
        method: Method::Post,
        path: "/v1/quarantine",
        handler: |method| on(method, quarantine::add),
        summary: "Refuse everything to a client or to all with a label, and end their flows",
        description: "",
        parameters: &[],
        body: Some(Content::json::<quarantine::Who>()),
        answers: &[
            Answer::json::<quarantine::Held>("It holds. The flows end within a second."),
            Answer::failure(400, "It names nobody."),
            Answer::failure(409, "There are too many."),
            BODY_TOO_LARGE,
            Answer::failure(500, "It holds, but could not be kept for a restart."),
        ],
    },
    Route {
        method: Method::Delete,
        path: "/v1/quarantine",
        handler: |method| on(method, quarantine::release),
        summary: "End a quarantine",
        description: "",
        parameters: &[Parameter::query::<quarantine::Who>(&[])],
        body: None,
        answers: &[
            Answer::json::<quarantine::Released>("It is over."),
            Answer::failure(400, "It names nobody."),
            Answer::failure(404, "Who is named is not in quarantine."),
            Answer::failure(500, "It could not be kept, so the quarantine still holds."),
        ],
    },
    Route {
        method: Method::Post,
        path: "/v1/tokens",
        handler: |method| on(method, tokens::issue),
        summary: "Issue a token",
        description: "Of an issuer whose `signing_key` is in the configuration. It says what is asked for, and counts here and now; \
                      what it may reach is still bounded by the issuer's ceiling. The answer is a secret, and is kept nowhere.",
        parameters: &[],
        body: Some(Content::json::<tokens::Wanted>()),
        answers: &[
            Answer::json::<tokens::Made>("The token, and how it is known."),
            Answer::failure(400, "It is not said what it may reach, or such a token would not be accepted."),
            Answer::failure(404, "There is no such issuer."),
            Answer::failure(
                409,
                "The issuer has no signing key here, or its set has not the public half of it.",
            ),
            BODY_TOO_LARGE,
            Answer::failure(500, "It could not be signed."),
        ],
    },
    Route {
        method: Method::Get,
        path: "/v1/revocations",
        handler: |method| on(method, revocations::list),
        summary: "Which tokens count no longer",
        description: "",
        parameters: &[],
        body: None,
        answers: &[Answer::json::<revocations::Revocations>("Everything that is revoked.")],
    },
    Route {
        method: Method::Post,
        path: "/v1/revocations",
        handler: |method| on(method, revocations::add),
        summary: "Let tokens count no longer, and end their flows",
        description: "It holds until every token has ended that was issued before; of a key, until it is lifted.",
        parameters: &[],
        body: Some(Content::json::<revocations::Which>()),
        answers: &[
            Answer::json::<revocations::Made>("It holds. The flows end within a second."),
            Answer::failure(400, "Not one thing is named."),
            Answer::failure(409, "There are too many."),
            BODY_TOO_LARGE,
            Answer::failure(500, "It holds, but could not be kept for a restart."),
        ],
    },
    Route {
        method: Method::Delete,
        path: "/v1/revocations",
        handler: |method| on(method, revocations::lift),
        summary: "Lift a revocation",
        description: "",
        parameters: &[Parameter::query::<revocations::Which>(&[])],
        body: None,
        answers: &[
            Answer::json::<revocations::Lifted>("It is lifted."),
            Answer::failure(400, "Not one thing is named."),
            Answer::failure(404, "It is not revoked."),
            Answer::failure(500, "It could not be kept, so the revocation still holds."),
        ],
    },
];

//! `POST /v1/reload`: the configuration is read again, as on SIGHUP. All of it takes effect or nothing.

use axum::{Extension, Json, extract::State};

use crate::{
    admin::Admin,
    error::Failure,
    orders::{self, Answer, Do},
    server::Caller,
};

pub(crate) async fn post(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Answer>, Failure> {
    Ok(Json(orders::carry_out(&admin, caller.uid, Do::Reload).await?))
}

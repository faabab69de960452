//! Tokens: the part of OAuth 2.0 that Google's clients use (RFC 6749, RFC 7636 and RFC 7523).

use super::answer::{self, Answer};
use super::files::Parameters;
use super::server::{CLIENT_ID, CLIENT_SECRET};
use super::state::{Code, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hyper::header::{HeaderValue, LOCATION};
use serde::Deserialize;
use serde_json::json;

fn text<'a>(parameters: &'a Parameters, name: &str) -> &'a str {
    parameters.get(name).map(String::as_str).unwrap_or_default()
}

/// The page where a person agrees: this one always does.
pub(super) fn authorize(state: &mut State, parameters: &Parameters) -> Answer {
    let text = |name: &str| text(parameters, name);
    let right = text("client_id") == CLIENT_ID
        && text("response_type") == "code"
        && text("code_challenge_method") == "S256"
        && text("access_type") == "offline"
        && text("prompt") == "consent"
        && !text("scope").is_empty()
        && !text("state").is_empty()
        && text("redirect_uri").starts_with("http");
    if !right {
        return answer::oauth_error("invalid_request", "A parameter is missing or wrong.");
    }
    let code = format!("4/0{}", state.id("code"));
    let (redirect, challenge) = (text("redirect_uri").to_owned(), text("code_challenge").to_owned());
    let query: String = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("state", text("state")), ("code", &code), ("scope", text("scope"))])
        .finish();
    let joint = if redirect.contains('?') { '&' } else { '?' };
    let place = format!("{redirect}{joint}{query}");
    state.given.push(code.clone());
    state.codes.insert(code, Code { redirect, challenge });
    let mut found = answer::empty(302);
    found.headers_mut().extend(HeaderValue::try_from(place).map(|place| (LOCATION, place)));
    found
}

pub(super) fn token(state: &mut State, parameters: &Parameters) -> Answer {
    let text = |name: &str| text(parameters, name);
    let client = text("client_id") == CLIENT_ID && text("client_secret") == CLIENT_SECRET;
    match text("grant_type") {
        "authorization_code" | "refresh_token" if !client => {
            answer::json(401, &json!({ "error": "invalid_client", "error_description": "Unauthorized" }))
        }
        "authorization_code" => {
            // A code counts once.
            let Some(code) = state.codes.remove(text("code")) else {
                return answer::oauth_error("invalid_grant", "Malformed auth code.");
            };
            let verifier = text("code_verifier");
            let challenge = BASE64.encode(backup_core::Digest::of(verifier.as_bytes()).0);
            if code.redirect != text("redirect_uri") || code.challenge != challenge || verifier.len() < 43 {
                return answer::oauth_error("invalid_grant", "The code was issued for other parameters.");
            }
            let refresh = new_refresh_token(state);
            access(state, Some(&refresh))
        }
        "refresh_token" => {
            if !state.refresh_tokens.contains(text("refresh_token")) {
                return answer::oauth_error("invalid_grant", "Token has been expired or revoked.");
            }
            if !state.rotates {
                return access(state, None);
            }
            state.refresh_tokens.remove(text("refresh_token"));
            let refresh = new_refresh_token(state);
            access(state, Some(&refresh))
        }
        "urn:ietf:params:oauth:grant-type:jwt-bearer" => match check_assertion(state, text("assertion")) {
            Ok(()) => access(state, None),
            Err(why) => answer::oauth_error("invalid_grant", why),
        },
        _ => answer::oauth_error("unsupported_grant_type", "Invalid grant_type."),
    }
}

pub(super) fn new_refresh_token(state: &mut State) -> String {
    let token = format!("1//refresh/{}", state.id("token"));
    state.refresh_tokens.insert(token.clone());
    state.given.push(token.clone());
    token
}

fn access(state: &mut State, refresh: Option<&str>) -> Answer {
    let token = format!("ya29.access.{}", state.id("token"));
    state.access_tokens.insert(token.clone());
    state.given.push(token.clone());
    let mut body = json!({
        "access_token": token,
        "expires_in": state.token_life,
        "token_type": "Bearer",
        "scope": "https://www.googleapis.com/auth/drive.file",
    });
    if let (Some(refresh), Some(map)) = (refresh, body.as_object_mut()) {
        map.insert("refresh_token".into(), refresh.into());
    }
    answer::json(200, &body)
}

/// The claims of a service account.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    scope: String,
    iat: i64,
    exp: i64,
}

/// By how many seconds the clocks may differ.
const LEEWAY: i64 = 30;

fn check_assertion(state: &State, assertion: &str) -> Result<(), &'static str> {
    const WRONG: &str = "Invalid JWT Signature.";
    let claimed = assertion.split('.').nth(1).and_then(|part| BASE64.decode(part).ok()).ok_or(WRONG)?;
    let claimed = serde_json::from_slice::<Claims>(&claimed).map_err(|_| WRONG)?;
    let pem = state.service_accounts.get(&claimed.iss).ok_or(WRONG)?;
    let key = jsonwebtoken::DecodingKey::from_rsa_pem(pem).map_err(|_| WRONG)?;
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
    // By the server's own clock, below.
    (rules.validate_aud, rules.validate_exp) = (false, false);
    let Claims { iss: _, scope, iat, exp } =
        jsonwebtoken::decode::<Claims>(assertion, &key, &rules).map_err(|_| WRONG)?.claims;
    let now = state.now().as_second();
    if iat > now + LEEWAY || exp < now - LEEWAY || exp - iat > 3600 {
        return Err("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.");
    }
    if scope.is_empty() { Err(WRONG) } else { Ok(()) }
}

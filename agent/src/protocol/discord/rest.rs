//! Paths of Discord's REST interface that hold a token, and what they answer.

/// The parts of a path behind `/api` and a version.
fn parts(path: &str) -> (usize, std::str::Split<'_, char>) {
    let mut at = 0;
    if let Some(rest) = path.strip_prefix("/api") {
        at = 4;
        if let Some(version) = rest.strip_prefix("/v") {
            let digits = version.bytes().take_while(u8::is_ascii_digit).count();
            at += if digits > 0 { 2 + digits } else { 0 };
        }
    }
    (at, path[at..].split('/'))
}

/// The interaction that a request to this path answers: `/interactions/{id}/{token}/callback`.
pub fn answered(path: &str) -> Option<u64> {
    let (_, mut parts) = parts(path);
    let answer = [parts.next()?, parts.next()?];
    let (id, _, callback) = (parts.next()?, parts.next()?, parts.next()?);
    (answer == ["", "interactions"] && callback == "callback" && parts.next().is_none())
        .then(|| id.parse().ok())
        .flatten()
}

/// The path with its token replaced, and its template (`url.template`), where it holds one: interactions
/// (`/interactions/{id}/{token}/callback`) and webhooks (`/webhooks/{id}/{token}…`), which the follow-ups use.
pub fn redacted(path: &str) -> Option<(String, String)> {
    let (at, mut parts) = parts(path);
    parts.next().filter(|empty| empty.is_empty())?;
    let what = parts.next()?;
    let id = parts.next().filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))?;
    parts.next().filter(|token| !token.is_empty())?;
    let names = match what {
        "interactions" => "{interaction.id}/{interaction.token}",
        "webhooks" => "{webhook.id}/{webhook.token}",
        _ => return None,
    };
    let mut shown = format!("{}/{what}/{id}/REDACTED", &path[..at]);
    let mut template = format!("/{what}/{names}");
    for part in parts {
        shown.push('/');
        shown.push_str(part);
        template.push('/');
        let number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        template.push_str(if number { "{message.id}" } else { part });
    }
    Some((shown, template))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_paths_are_replaced() {
        let callback = "/api/v10/interactions/1234/aW50ZXJhY3Rpb24/callback";
        assert_eq!(answered(callback), Some(1234));
        let (shown, template) = redacted(callback).expect("a token");
        assert_eq!(shown, "/api/v10/interactions/1234/REDACTED/callback");
        assert_eq!(template, "/interactions/{interaction.id}/{interaction.token}/callback");
        let (shown, template) = redacted("/webhooks/77/secret/messages/99").expect("a token");
        assert_eq!(shown, "/webhooks/77/REDACTED/messages/99");
        assert_eq!(template, "/webhooks/{webhook.id}/{webhook.token}/messages/{message.id}");
        let (_, template) = redacted("/api/webhooks/77/secret/messages/@original").expect("a token");
        assert_eq!(template, "/webhooks/{webhook.id}/{webhook.token}/messages/@original");
    }

    #[test]
    fn other_paths_are_left_alone() {
        for path in [
            "/",
            "",
            "/api",
            "/api/v10",
            "/api/v10/channels/1/messages",
            "/webhooks/77",
            "/webhooks/x/y",
            "/interactions",
        ] {
            assert_eq!((redacted(path), answered(path)), (None, None), "{path}");
        }
    }
}

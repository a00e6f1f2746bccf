use super::*;

fn routes(patterns: &[&str]) -> Routes {
    Routes::new(&patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>())
}

#[test]
fn the_first_pattern_that_fits_wins() {
    let mut routes = routes(&[
        "/games/{game_id}/players/{id}",
        "/games/latest",
        "/games/{game_id}",
        "/static/*",
        "/files/{path:path}",
        "/v1/*/end",
        "/",
    ]);
    for (path, template) in [
        ("/games/7/players/x", "/games/{game_id}/players/{id}"),
        ("/games/latest", "/games/latest"),
        ("/games/latest?page=1", "/games/latest"),
        ("/games/abc", "/games/{game_id}"),
        ("/static/js/app.js", "/static/*"),
        ("/static/", "/static/*"),
        ("/files/a/b", "/files/{path:path}"),
        ("/v1/x/end", "/v1/*/end"),
        ("/", "/"),
        ("/games/", "/games/"),
        ("/static", "/static"),
        ("/v1/x/y", "/v1/x/y"),
    ] {
        assert_eq!(routes.template(0, "GET", path), template, "{path}");
    }
}

#[test]
fn identifiers_become_placeholders_at_once() {
    let mut routes = Routes::default();
    for (path, template) in [
        ("/games/17", "/games/{id}"),
        ("/games/-1/x", "/games/{id}/x"),
        ("/users/175928847299117063", "/users/{id}"),
        ("/u/0190163d-8694-739b-aea5-966c26f8ad91/x", "/u/{uuid}/x"),
        ("/u/0190163D8694739BAEA5966C26F8AD91", "/u/{hash}"),
        ("/commit/da39a3ee5e6b4b0d", "/commit/{hash}"),
        ("/s/eyJhbGciOiJIUzI1NiJ9", "/s/{hash}"),
        ("/s/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3", "/s/{hash}"),
        ("/s/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/s/{hash}"),
        ("/day/2024-05-17", "/day/{date}"),
        ("/day/2024-05", "/day/{date}"),
        ("/at/2024-05-17T10:00:00Z", "/at/{date}"),
        ("/users/bob@example.com", "/users/{*}"),
        ("/users/@me", "/users/@me"),
        ("/a/{id}", "/a/{*}"),
    ] {
        assert_eq!(routes.template(0, "GET", path), template, "{path}");
    }
}

#[test]
fn words_of_an_application_stay_words() {
    let mut routes = Routes::default();
    for path in [
        "/",
        "/api/v1/games/",
        "/health",
        "/deadbeefdeadbeef",
        "/getUserByIdentifierAndName",
        "/a-rather-long-route-name-of-2024",
        "/app.3f2a.js",
        "/%7Ebob",
    ] {
        assert_eq!(routes.template(0, "GET", path), path);
    }
    assert_eq!(routes.template(0, "GET", "*"), "{*}");
    assert_eq!(routes.template(0, "GET", ""), "{*}");
}

#[test]
fn a_position_with_too_many_words_is_folded_and_its_siblings_are_not() {
    let mut routes = Routes::default();
    routes.template(0, "GET", "/users/17/posts");
    for index in 0..WORDS_LIMIT {
        assert_eq!(
            routes.template(0, "GET", &format!("/users/name{index}/posts")),
            format!("/users/name{index}/posts")
        );
    }
    assert_eq!(routes.template(0, "GET", "/users/one-more/posts"), "/users/{*}/posts");
    assert_eq!(routes.template(0, "GET", "/users/name0/posts"), "/users/{*}/posts");
    assert_eq!(routes.template(0, "GET", "/users/17/posts"), "/users/{id}/posts");
    assert_eq!(routes.template(0, "GET", "/games/new"), "/games/new");
}

#[test]
fn the_number_of_templates_is_bounded_whatever_is_asked_for() {
    let mut routes = Routes::default();
    let mut templates = std::collections::BTreeSet::new();
    let mut seed = 1_u64;
    for _ in 0..60_000 {
        let words = [(); 5].map(|()| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("/w{}", (seed >> 33) % 60)
        });
        templates.insert(routes.template(0, "GET", &words.concat()));
    }
    assert!(routes.nodes <= NODES_LIMIT);
    assert_eq!(routes.root.size(), routes.nodes + 1);
    assert!(templates.len() <= 2 * NODES_LIMIT, "{}", templates.len());
    let deep = "/a".repeat(1000);
    assert_eq!(Routes::default().template(0, "GET", &deep), format!("{}/{{*}}", "/a".repeat(DEPTH_LIMIT)));
}

#[test]
fn forgotten_positions_are_counted_back() {
    let mut routes = Routes::default();
    for index in 0..10_000 {
        routes.template(0, "GET", &format!("/x/w{index}/y/z"));
    }
    assert_eq!(routes.root.size(), routes.nodes + 1);
    assert!(routes.nodes < 10, "{}", routes.nodes);
}

#[test]
fn the_same_paths_give_the_same_templates() {
    let run = || {
        let mut routes = Routes::default();
        (0..200)
            .map(|index| routes.template(0, "GET", &format!("/a/w{}/{index}", index % 70)))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_refused_path_has_the_route_that_others_have_shown_and_teaches_none() {
    let mut routes = routes(&["/teams/{team_id}"]);
    for path in ["/games/7", "/games/7/players", "/hit/1", "/hit/best", "/health"] {
        routes.template(0, "GET", path);
    }
    let nodes = routes.nodes;
    for (path, strict, lenient) in [
        ("/games/100000", Some("/games/{id}"), Some("/games/{id}")),
        ("/games/x", None, Some("/games/{id}")),
        ("/games/x/players", None, Some("/games/{id}/players")),
        ("/games", None, None),
        ("/games/7/owner", None, None),
        ("/hit/x", None, None),
        ("/nowhere", None, None),
        ("/health?deep=1", Some("/health"), Some("/health")),
        ("/teams/x", Some("/teams/{team_id}"), Some("/teams/{team_id}")),
        ("*", None, None),
    ] {
        assert_eq!(routes.known(0, "GET", path, false).as_deref(), strict, "{path}");
        assert_eq!(routes.known(0, "GET", path, true).as_deref(), lenient, "{path}");
    }
    assert_eq!(routes.nodes, nodes);
}

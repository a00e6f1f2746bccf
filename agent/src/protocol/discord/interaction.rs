//! Interactions: slash commands, buttons, selects, modals.

use serde::Deserialize;

use super::{Body, Dispatch, User};

/// Longest part of a custom id that is shown.
const PREFIX_MAX: usize = 64;
/// So many hexadecimal digits are no name: discord.py makes ids of 32 of them.
const RANDOM: usize = 16;

/// What a user has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interaction {
    /// Its id: a snowflake.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Of a command its name with sub-commands; of a component or modal the part of its custom id that names it.
    pub name: Option<String>,
}

/// Types of interactions and, of components, of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A slash command.
    Command,
    /// A command in a user's menu.
    UserCommand,
    /// A command in a message's menu.
    MessageCommand,
    /// A button.
    Button,
    /// A select menu of any kind.
    Select,
    /// Suggestions for an option of a slash command.
    Autocomplete,
    /// A modal was submitted.
    Modal,
}

#[derive(Deserialize)]
struct Create {
    id: String,
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    guild_id: Option<String>,
    #[serde(default)]
    channel_id: Option<String>,
    /// In a guild.
    #[serde(default)]
    member: Option<Member>,
    /// Elsewhere.
    #[serde(default)]
    user: Option<User>,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Member {
    user: User,
}

#[derive(Default, Deserialize)]
struct Data {
    #[serde(default)]
    name: Option<String>,
    /// Of a command: where it is found.
    #[serde(default, rename = "type")]
    menu: Option<u8>,
    #[serde(default)]
    custom_id: Option<String>,
    #[serde(default)]
    component_type: Option<u8>,
    #[serde(default)]
    options: Vec<Choice>,
}

/// An option: its value is not read.
#[derive(Deserialize)]
struct Choice {
    name: String,
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    options: Vec<Choice>,
}

/// Reads `INTERACTION_CREATE`; `None` for a ping, or what is none.
pub(super) fn read(content: &[u8], dispatch: &mut Dispatch) -> Option<()> {
    let create = serde_json::from_slice::<Body<Create>>(content).ok()?.d;
    let data = create.data.unwrap_or_default();
    let kind = match (create.kind, data.menu, data.component_type) {
        (2, Some(2), _) => Kind::UserCommand,
        (2, Some(3), _) => Kind::MessageCommand,
        (2, ..) => Kind::Command,
        (3, _, Some(2)) => Kind::Button,
        (3, ..) => Kind::Select,
        (4, ..) => Kind::Autocomplete,
        (5, ..) => Kind::Modal,
        _ => return None,
    };
    let name = match kind {
        Kind::Command | Kind::Autocomplete => data.name.map(|name| with_subcommands(name, &data.options)),
        Kind::UserCommand | Kind::MessageCommand => data.name,
        Kind::Button | Kind::Select | Kind::Modal => data.custom_id.as_deref().and_then(prefix),
    };
    dispatch.guild = create.guild_id;
    dispatch.channel = create.channel_id;
    dispatch.user = create.member.map(|member| member.user).or(create.user).map(|user| user.id);
    dispatch.interaction = Some(Interaction { id: create.id.parse().ok()?, kind, name });
    Some(())
}

/// `SUB_COMMAND` and `SUB_COMMAND_GROUP` are options too, the only ones where they are.
fn with_subcommands(mut name: String, options: &[Choice]) -> String {
    let mut options = options;
    while let [option] = options
        && matches!(option.kind, 1 | 2)
    {
        name.push(' ');
        name.push_str(&option.name);
        options = &option.options;
    }
    name
}

/// The part of a custom id that names what was used: up to a separator or number, for what follows tells which one.
fn prefix(custom_id: &str) -> Option<String> {
    let random = custom_id.len() >= RANDOM && custom_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if random {
        return None;
    }
    let end =
        custom_id.find(|c: char| !(c.is_alphabetic() || matches!(c, '_' | '-'))).unwrap_or(custom_id.len());
    let name = custom_id[..end].trim_end_matches(['_', '-']);
    let name: String = name.chars().take(PREFIX_MAX).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_custom_id_is_named_by_what_is_before_its_parameters() {
        for (custom_id, name) in [
            ("join_game:123", Some("join_game")),
            ("join_game_123", Some("join_game")),
            ("confirm", Some("confirm")),
            ("refresh-list|7|x", Some("refresh-list")),
            ("0af7651916cd43dd8448eb211c80319c", None),
            ("123", None),
            ("", None),
        ] {
            assert_eq!(prefix(custom_id).as_deref(), name, "{custom_id}");
        }
    }
}

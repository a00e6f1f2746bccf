//! What a dispatched event is called. There are no semantic conventions for it; the names are those of Discord's
//! documentation.

use super::{Dispatch, Kind};
use crate::signal::{Attribute, Description, Endpoints, Status, remote_addresses};

/// Describes the handling of an event.
pub fn describe(dispatch: &Dispatch, endpoints: &Endpoints) -> Description {
    let mut attributes = vec![Attribute::new("discord.event", dispatch.event.clone())];
    let mut put = |key: &'static str, value: &Option<String>| {
        attributes.extend(value.clone().map(|value| Attribute::new(key, value)));
    };
    put("discord.guild.id", &dispatch.guild);
    put("discord.channel.id", &dispatch.channel);
    put("discord.user.id", &dispatch.user);
    attributes.extend(dispatch.shard.map(|shard| Attribute::new("discord.shard.id", i64::from(shard))));
    let mut name = format!("discord {}", dispatch.event);
    if let Some(interaction) = &dispatch.interaction {
        let (kind, word, sign, key) = match interaction.kind {
            Kind::Command => ("application_command", "", "/", "discord.command.name"),
            Kind::UserCommand => ("application_command", "user command ", "", "discord.command.name"),
            Kind::MessageCommand => ("application_command", "message command ", "", "discord.command.name"),
            Kind::Autocomplete => {
                ("application_command_autocomplete", "autocomplete ", "/", "discord.command.name")
            }
            Kind::Button => ("message_component", "button ", "", "discord.component.name"),
            Kind::Select => ("message_component", "select ", "", "discord.component.name"),
            Kind::Modal => ("modal_submit", "modal ", "", "discord.component.name"),
        };
        attributes.push(Attribute::new("discord.interaction.id", interaction.id.to_string()));
        attributes.push(Attribute::new("discord.interaction.type", kind));
        let shown = interaction.name.as_deref().unwrap_or_default();
        let shown = format!("discord {word}{sign}{shown}");
        shown.trim_end().clone_into(&mut name);
        if let Some(shown) = &interaction.name {
            attributes.push(Attribute::new(key, shown.clone()));
        }
    }
    remote_addresses(endpoints, &mut attributes);
    Description { name, attributes, status: Status::Unset }
}

"""All faults that strike at random times."""

from chaos.disk_faults import OF_DISKS
from chaos.group_faults import OF_GROUPS
from chaos.message_faults import OF_MESSAGES
from chaos.network_faults import OF_THE_NETWORK
from chaos.process_faults import OF_PROCESSES
from chaos.strikes import Fault

FAULTS: list[Fault] = [*OF_PROCESSES, *OF_GROUPS, *OF_MESSAGES, *OF_THE_NETWORK, *OF_DISKS]

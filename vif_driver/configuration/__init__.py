# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes a host one of OVN's or of Neutron's: what ``vifctl configure`` and ``vdsm-tool`` do.

Whatever is changed goes through :class:`~vif_driver.configuration.transaction.Transaction`, which
notes on the disk what was there before, and puts it back if a later step fails or this process is
killed.  Neither the agent nor a hook imports anything of it.

======================== ============================================================
``change.py``            what one change is: what is so already, how it is made and undone
``transaction.py``       makes them, all or none; one run at a time
``record.py``            the note on the disk of what was there before
``kinds.py``             which changes there are, by the names that they have in that note
``files.py``             a file's content; ``services.py`` a unit of systemd's
``bridges.py``           bridges of Open vSwitch's and their uplinks
``ovs_settings.py``      settings in Open vSwitch's database
``agent_credentials.py`` that vif-agent has the host's certificate
``ovn*.py``              OVN's part: what is wanted, what it takes on the host, whether OVN
                         knows it; ``tls.py`` its certificate, ``tunnel.py`` its address
``neutron*.py``          Neutron's part: what is wanted and what it needs, what it takes on
                         the host, whether the agent is connected, what was before, whom it
                         would cut off
``message_queue.py``     where that is; ``option_file.py`` files of oslo.config's, edited
======================== ============================================================
"""
